"""`metalab data`: what it prints, its exit codes, and what it says to words that make no sense."""

import os
import subprocess
import sys
import time

import pytest
from PIL import Image

from metalab.cli.data import contact_sheet
from metalab.cli.data.listing import FACTS
from metalab.config.paths import conf_dir


def test_list_names_every_data_set_and_which_is_on_disk(command_line, images):
    code, said = command_line("data", "list")
    assert code == 0
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith(" ") and line.split()}
    for path in (conf_dir() / "data").glob("*.yaml"):
        assert path.stem in lines
    assert " no " in lines["folder"]
    assert all(word in lines["cifarfs"] for word in ("64/16/20", "60,000", "32x32 RGB"))
    assert command_line("data", "prepare", "folder", f"data.root={images}", "data.size=16")[0] == 0
    code, said = command_line("data", "list")
    assert next(line for line in said.splitlines() if line.startswith(" folder")).count(" 0 MB ") == 1


@pytest.mark.parametrize(
    "name",
    sorted({path.stem for path in (conf_dir() / "data").glob("*.yaml")} - {"domains", "folder", "union"}),
)
def test_the_list_has_its_facts_from_the_yaml(name):
    second = (conf_dir() / "data" / f"{name}.yaml").read_text().splitlines()[1]
    assert FACTS.fullmatch(second), second


def test_prepare_makes_the_store_and_says_what_is_in_it(command_line, images, tmp_path):
    code, said = command_line("data", "prepare", "folder", f"data.root={images}", "data.size=16")
    assert code == 0
    assert "folder val: 6 classes, 18 images" in said
    assert len(list((tmp_path / "cache").glob("folder-*/store.json"))) == 1


def test_prepare_rebuilds_a_store_whose_files_were_replaced(command_line, images, tmp_path, caplog):
    command = ("data", "prepare", "folder", f"data.root={images}", "data.size=16")
    assert command_line(*command)[0] == 0
    file = next((tmp_path / "cache").glob("folder-*/val-*.uint8"))
    whole = file.read_bytes()
    file.write_bytes(bytes(len(whole)))
    with caplog.at_level("INFO", "metalab.data"):
        assert command_line(*command)[0] == 0
    assert caplog.text.count("has other content than was written") == 1
    assert file.read_bytes() == whole


@pytest.mark.parametrize("verb", ["prepare", "check"])
def test_what_fails_is_not_tried_again_for_the_other_splits(command_line, own, verb):
    code, said = command_line("data", verb, "leaky", "+data.broken=true", "--config-dir", str(own))
    assert code == 1
    assert said.count("loading") == 1
    assert "the disk is gone" in said


@pytest.mark.parametrize("what", ["sheet", "episode"])
def test_show_draws_every_class(command_line, images, tmp_path, what):
    path = tmp_path / "pictures" / "a.png"
    words = (f"data.root={images}", "data.size=16", f"what={what}", f"out={path}", "split=val")
    code, said = command_line("data", "show", "folder", *words, "task.query=2")
    assert (code, str(path) in said.splitlines()) == (0, True)
    with Image.open(path) as page:
        rows = 6 if what == "sheet" else 5
        assert page.size[1] == contact_sheet.GAP + rows * (4 * 16 + contact_sheet.GAP + contact_sheet.LABEL)
        assert len(set(page.convert("L").crop((0, page.size[1] - 40, 40, page.size[1] - 10)).tobytes())) > 20


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "data needs one of: list, prepare, check, show"),
        (("lst",), 2, "unknown command 'data lst'"),
        (("check",), 2, "metalab data check NAME, not ''. NAME is one of: aircraft, cifar10, "),
        (("check", "omniglt"), 2, "not 'omniglt'. Did you mean omniglot"),
        (("check", "glyphs", "algo=maml"), 2, "'algo=maml': metalab data check NAME takes data.KEY=VALUE, out="),
        (("check", "glyphs", "data=folder"), 2, "'data=folder': metalab data check NAME takes"),
        (("show", "glyphs", "what=film"), 2, "what=film: expected what=sheet"),
        (("show", "glyphs", "split=eval"), 2, "split=eval: expected split=train, split=val or split=test"),
        (("check", "glyphs", "--config-dir"), 2, "--config-dir FOLDER: expected a folder that holds data/*.yaml"),
        (("check", "glyphs", "data.sizes=3"), 1, "sizes"),
        (("check", "glyphs", "data.size=big"), 1, "data.size=big"),
        (("prepare", "miniimagenet"), 1, "Type data.root=/path/to/a/folder, which holds one of"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(command_line, words, code, why):
    found, said = command_line("data", *words)
    assert (found, why in said) == (code, True), said
    assert "Traceback" not in said


@pytest.mark.slow
def test_show_draws_an_episode_as_the_task_and_the_data_have_it(command_line, tmp_path):
    path, words = tmp_path / "a.png", ("data.images=8", "what=episode", f"out={tmp_path / 'a.png'}")
    code, said = command_line("data", "show", "glyphs", *words, "task=variable", "task.way=9", "task.query=2")
    assert code == 0, said
    row = 84 + contact_sheet.GAP + contact_sheet.LABEL  # 28 pixels, three times as large
    with Image.open(path) as page:
        assert (page.size[1] - contact_sheet.GAP) % row == 0
        assert 5 <= (page.size[1] - contact_sheet.GAP) // row <= 9


@pytest.mark.slow
def test_all_classes_at_once_are_no_picture(command_line, tmp_path):
    words = ("show", "glyphs", "data.images=8", "what=episode", f"out={tmp_path / 'a.png'}", "task=all_way")
    code, said = command_line("data", *words)
    assert code == 1
    assert "too many for a picture: type task=fixed" in said


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    script = "from metalab.cli import main; main()"
    words = ["data", "check", "glyphs", "data.images=4", f"data.cache={tmp_path}"]
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def test_help_and_completion_import_nothing_heavy(tmp_path):
    script = "import sys; sys.argv = sys.argv[1:]; from metalab.cli import main\ntry: main()\nfinally: " + (
        "print([m for m in ('torch', 'hydra', 'numpy', 'rich') if m in sys.modules], file=sys.stderr)"
    )
    for words, expected in (
        (("--help",), "metalab data list | prepare NAME"),
        (("data", "--help"), "what it leaks; exit code 1"),
    ):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", script, "metalab", *words], capture_output=True, text=True)
        assert expected in run.stdout
        assert run.stderr.strip() == "[]"
        assert time.perf_counter() - start < 5
    for line, expected in (
        ("metalab data ", "list\nprepare\ncheck\nshow\nclean\n"),
        ("metalab da", "data\n"),
        ("metalab data check cifarf", "cifarfs\n"),
    ):
        env = {**os.environ, "COMP_LINE": line}
        words = [sys.executable, "-c", script, "metalab", "-sc", "query=bash"]
        assert subprocess.run(words, capture_output=True, text=True, env=env).stdout == expected
