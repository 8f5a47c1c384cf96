"""Where things stand on the page, and which button calls what."""

from typing import TYPE_CHECKING, Any

import gradio as gr

from metalab.data.formats.image_decode import EXTENSIONS

if TYPE_CHECKING:
    from metalab.serving.demo.page import Page

NO_ANSWER: list[Any] = [None, "", None, None, None]
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]  # of the reader's machine
MONO = ["ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace"]
CSS = """
.gradio-container {max-width: 1320px !important; padding: 8px 20px !important}
#head h1 {margin: 0; font-size: 1.35rem} #head p {margin: 0}
.column h3 {margin: 0 0 2px} .caption p {margin: 0; font-size: 0.85rem; color: var(--block-label-text-color)}
#answer textarea {font-size: 1.15rem; font-weight: 600}
#support-gallery .grid-container, #nearest .grid-container {grid-template-columns: repeat(5, minmax(0, 1fr)) !important}
#support-gallery .thumbnail-item, #nearest .thumbnail-item {
  min-width: 0 !important; width: 100% !important; height: auto !important; aspect-ratio: 1
}
#nearest .grid-wrap {overflow: hidden !important}
#support-gallery .caption-label, #nearest .caption-label {font-size: 0.7rem; padding: 0 4px}
"""


def theme() -> Any:
    """Return a theme without a font that would have to be fetched."""
    return gr.themes.Base(font=FONTS, font_mono=MONO, primary_hue="blue", spacing_size="sm", radius_size="sm")


def build(page: "Page") -> gr.Blocks:
    """Return the page, its buttons wired."""
    with gr.Blocks(title="metalab demo", analytics_enabled=False) as blocks:
        run, reject = _head(page)
        with gr.Row():
            with gr.Column(elem_classes="column", min_width=360):
                classes, gallery, selected, inputs = _classes()
            with gr.Column(elem_classes="column", min_width=300):
                query, asked, expected = _query()
            with gr.Column(elem_classes="column", min_width=360):
                answer = [query, *_answer()]
        folder, save, load = _folder()
    support = [classes, gallery, selected, expected]
    again = {"fn": page.answer, "inputs": None, "outputs": answer, "show_progress": "hidden"}
    with blocks:
        name, add, files, photograph, take, remove_image, remove_class = inputs
        gr.on([name.submit, add.click], page.add_class, [name, classes], [name, *support]).then(**again)
        files.upload(page.add_files, [files, classes], [files, *support]).then(**again)
        take.click(page.add_photograph, [photograph, classes], [photograph, *support]).then(**again)
        classes.input(page.refresh, classes, support)
        gallery.select(_index, None, selected, show_progress="hidden")
        remove_image.click(page.remove_image, [classes, selected], support).then(**again)
        remove_class.click(page.remove_class, classes, support).then(**again)
        file, camera, ask = asked
        file.upload(page.ask_file, file, [file, *answer])
        ask.click(page.ask_photograph, camera, [camera, *answer])
        run.input(page.switch, [run, classes], [run, *support]).then(**again)
        reject.release(page.set_reject, [reject, classes], support).then(**again)
        save.click(page.save, folder, None)
        load.click(page.load_support, [folder, classes], support).then(**again)
        blocks.load(page.refresh, classes, support).then(**again)
    return blocks


def _index(event: gr.SelectData) -> Any:
    return event.index


def _head(page: "Page") -> tuple[gr.Dropdown, gr.Slider]:
    with gr.Row(equal_height=True):
        with gr.Column(scale=3, min_width=260):
            gr.Markdown(
                "# metalab demo\nTeach a trained net your own classes, with a few pictures of each.", elem_id="head"
            )
        run = gr.Dropdown(page.runs, value=page.session.run.words, label="Run", elem_id="run", scale=3)
        reject = gr.Slider(
            0,
            0.5,
            page.session.asked.reject or 0,
            step=0.01,
            label="None of these (share of your own that it may cost; 0: off)",
            elem_id="reject",
            scale=4,
            buttons=[],
        )
    return run, reject


def _classes() -> tuple[gr.Radio, gr.Gallery, gr.State, tuple[Any, ...]]:
    gr.Markdown("### 1. Your classes")
    with gr.Row(equal_height=True):
        name = gr.Textbox(
            show_label=False, placeholder="name of a class, as cat", elem_id="class-name", scale=3, container=False
        )
        add = gr.Button("Add class", elem_id="add-class", variant="primary", scale=1, min_width=90)
    classes = gr.Radio([], label="Pictures go to", elem_id="classes")
    with gr.Tab("Files"):
        files = _file("support-files", "multiple")
    with gr.Tab("Camera"):
        photograph = gr.Image(sources=["webcam"], type="numpy", show_label=False, height=220, elem_id="support-camera")
        take = gr.Button("Add this photograph", elem_id="add-photograph")
    gr.Markdown("Its pictures, as the net sees them", elem_classes="caption")
    gallery = _gallery("support-gallery", 226)
    selected = gr.State(None)
    with gr.Row():
        remove_image = gr.Button("Remove the clicked picture", elem_id="remove-picture", size="sm")
        remove_class = gr.Button("Remove the class", elem_id="remove-class", size="sm")
    return classes, gallery, selected, (name, add, files, photograph, take, remove_image, remove_class)


def _query() -> tuple[gr.Image, tuple[Any, ...], gr.Textbox]:
    gr.Markdown("### 2. A picture to classify")
    with gr.Tab("File"):
        file = _file("query-file", "single")
    with gr.Tab("Camera"):
        camera = gr.Image(sources=["webcam"], type="numpy", show_label=False, height=220, elem_id="query-camera")
        ask = gr.Button("Classify this photograph", elem_id="ask-photograph")
    query = _image("The picture, as the net sees it", "query")
    expected = gr.Textbox(label="What to expect", elem_id="expected", lines=4, max_lines=8, interactive=False)
    return query, (file, camera, ask), expected


def _answer() -> list[Any]:
    gr.Markdown("### 3. The answer")
    said = gr.Textbox(show_label=False, elem_id="answer", interactive=False, lines=1, max_lines=2, container=False)
    shares = gr.Label(label="Probabilities", elem_id="probabilities", num_top_classes=5, show_heading=False)
    looked = _image("Where it looked: red speaks for the answer, blue against", "map")
    gr.Markdown("Your pictures that are most like it (cosine of features)", elem_classes="caption")
    near = _gallery("nearest", 105)
    return [said, shares, looked, near]


def _folder() -> tuple[gr.Textbox, gr.Button, gr.Button]:
    with gr.Row(equal_height=True):
        folder = gr.Textbox(
            show_label=False,
            placeholder="folder to save to or to load from, one folder a class in it: /path/to/classes",
            elem_id="folder",
            scale=4,
            container=False,
        )
        save = gr.Button("Save pictures", elem_id="save", scale=1, min_width=120)
        load = gr.Button("Load pictures", elem_id="load", scale=1, min_width=120)
    return folder, save, load


def _file(name: str, count: Any) -> gr.File:
    return gr.File(
        show_label=False, file_count=count, file_types=sorted(EXTENSIONS), type="filepath", height=124, elem_id=name
    )


def _image(label: str, name: str) -> gr.Image:
    return gr.Image(label=label, elem_id=name, interactive=False, height=230, buttons=[], format="png")


def _gallery(name: str, height: int) -> gr.Gallery:
    return gr.Gallery(
        show_label=False,
        elem_id=name,
        columns=5,
        height=height,
        allow_preview=False,
        buttons=[],
        interactive=False,
        format="png",
    )
