"""The page of `metalab demo`: what is drawn, and what each button does."""

import html
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")  # read where gradio is imported
import gradio as gr
import numpy as np
from PIL import Image

from metalab.core.errors import UserError
from metalab.core.text import first_names
from metalab.serving.demo import layout
from metalab.serving.demo.answer import Answer
from metalab.serving.demo.occlusion import overlay, picture
from metalab.serving.demo.session import Session, words_of
from metalab.serving.loading import LoadedRun

logger = logging.getLogger("metalab")
NONE = "none of these"


class Page:
    """What the page shows of a session, and what its buttons do; all who open it see the same classes."""

    def __init__(self, session: Session, runs: list[str], load: Callable[[str], LoadedRun], folder: Path) -> None:
        """Show a session; `runs` are offered and loaded by `load`; `folder` takes photographs and the query."""
        self.session, self.runs, self.load, self.folder = session, runs, load, folder
        self.query: Path | None = None
        self._lock = threading.RLock()  # gradio calls from several threads

    def refresh(self, chosen: str | None = None) -> list[Any]:
        """Return the classes, the pictures of the chosen one, and what to expect."""
        with self._lock:
            classes = self.session.classes
            name = chosen if chosen in classes else next(iter(classes), None)
            choices = [(f"{each} ({len(pictures)})", each) for each, pictures in classes.items()]
            shown = [(picture(each.pixels), each.name) for each in classes.get(name or "", [])]
            try:
                expected = words_of(self.session.practice())
            except UserError as error:
                expected = str(error)
            return [gr.Radio(choices=choices, value=name), gr.Gallery(shown, selected_index=None), None, expected]

    def add_class(self, name: str, chosen: str | None) -> list[Any]:
        """Add a class; the text that stays in its box comes first."""
        with self._told():
            return ["", *self.refresh(self.session.add_class(name))]
        return [name, *self.refresh(chosen)]

    def add_files(self, files: Sequence[str] | None, chosen: str | None) -> list[Any]:
        """Add uploaded pictures to the chosen class, and empty the box that they were dropped into."""
        with self._told():
            if left := self.session.add_images(chosen or "", [Path(file) for file in files or []]):
                _say(first_names(left, 3))
        return [None, *self.refresh(chosen)]

    def add_photograph(self, pixels: np.ndarray | None, chosen: str | None) -> list[Any]:
        """Add what the camera has taken to the chosen class."""
        with self._told():
            self.session.add_images(chosen or "", [self._photograph(pixels)])
        return [None, *self.refresh(chosen)]

    def remove_image(self, chosen: str | None, selected: int | None) -> list[Any]:
        """Remove the picture that was clicked."""
        with self._told():
            if selected is None:
                raise UserError("Click the picture that is to go")
            self.session.remove_image(chosen or "", selected)
        return self.refresh(chosen)

    def remove_class(self, chosen: str | None) -> list[Any]:
        """Remove the chosen class."""
        with self._told():
            self.session.remove_class(chosen or "")
        return self.refresh()

    def ask_file(self, file: str | None) -> list[Any]:
        """Classify an uploaded picture, and empty the box that it was dropped into."""
        return [None, *(self.answer(Path(file)) if file else self.answer())]

    def ask_photograph(self, pixels: np.ndarray | None) -> list[Any]:
        """Classify what the camera has taken."""
        with self._told():
            return [None, *self.answer(self._photograph(pixels))]
        return [None, *self.answer()]

    def answer(self, query: Path | None = None) -> list[Any]:
        """Return what is said of a picture; None: of the one before, by the classifier that there is now."""
        with self._told():
            file = query or self.query
            if file is not None:
                if query is None:
                    with suppress(UserError):  # what to expect says why there is no classifier
                        return self._drawn(self.session.answer(file))
                    return [gr.skip(), *layout.NO_ANSWER[1:]]
                found = self.session.answer(file)
                self.query = file
                return self._drawn(found)
        return [gr.skip()] * len(layout.NO_ANSWER) if self.query else layout.NO_ANSWER

    def set_reject(self, share: float, chosen: str | None) -> list[Any]:
        """Set how many of the classes' own images may be lost to mark others; 0: none is marked."""
        with self._told():
            self.session.set_reject(share or None)
        return self.refresh(chosen)

    def switch(self, name: str, chosen: str | None) -> list[Any]:
        """Go on with another run; the one that is used comes first."""
        with self._told():
            if left := self.session.switch(self.load(name)):
                _say(first_names(left, 3))
        return [self.session.run.words, *self.refresh(chosen)]

    def save(self, folder: str) -> None:
        """Save the pictures as a support for metalab predict."""
        with self._told():
            gr.Info(html.escape(f"Saved: metalab predict support={self.session.save(folder)}"))

    def load_support(self, folder: str, chosen: str | None) -> list[Any]:
        """Take a folder's classes in the place of those there are."""
        with self._told():
            if left := self.session.load(folder):
                _say(first_names(left, 3))
        return self.refresh(chosen)

    def _photograph(self, pixels: np.ndarray | None) -> Path:
        if pixels is None:
            raise UserError("Take a photograph first")
        file = self.folder / "photograph.png"
        Image.fromarray(pixels).save(file)
        return file

    def _drawn(self, found: Answer) -> list[Any]:
        best = max(found.probabilities, key=lambda name: found.probabilities[name])
        share = f"{100 * found.probabilities[best]:.1f} %"
        said = f"{found.label} ({share})" if found.label else f"{NONE} (of the classes, most like {best}: {share})"
        pictures = [each for some in self.session.classes.values() for each in some]
        names = [name for name, some in self.session.classes.items() for _ in some]
        near = [(picture(pictures[i].pixels), f"{similarity:.2f} {names[i]}") for i, similarity in found.nearest]
        return [picture(found.pixels), said, found.probabilities, overlay(found.pixels, found.importance), near]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say a mistake on the page, and go on."""
        with self._lock:
            try:
                yield
            except UserError as error:
                _say(str(error))
            except Exception as error:
                logger.exception("the page goes on after an error")
                _say(f"That failed ({type(error).__name__}: {error}); the log file says more")


def _say(message: str) -> None:
    logger.warning(message)
    gr.Warning(html.escape(message))
