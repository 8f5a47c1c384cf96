"""`metalab data`: what it prints, its exit codes, and what it says to words that make no sense."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalab.config import conf_dir
from metalab.datacli import sheet
from metalab.datacli.listing import FACTS

LEAKY = """
from dataclasses import dataclass
import torch
from metalab.data.store import NoSplit
from metalab.errors import UserError
from metalab.interfaces import Split

@dataclass(frozen=True)
class Leaky:
    shared: bool
    broken: bool = False

    def load(self, split):
        if self.broken:
            print("loading")
            raise UserError("the disk is gone")
        if split == "val":
            raise NoSplit("there is no validation here")
        ids = [f"{split}:{i}" for i in range(3)] + (["both"] if self.shared else ["only:" + split])
        images = torch.randint(256, (8, 1, 16, 16), generator=torch.Generator().manual_seed(len(split)))
        two = torch.full((4,), 2)
        return Split(images.to(torch.uint8), torch.arange(4) * 2, two, ids, ids)
"""


@pytest.fixture
def images(tmp_path) -> Path:
    """A user's folder: train/ val/ test/ with six classes of three pictures each."""
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for k in range(6):
            place = tmp_path / "images" / split / f"{split}{k}"
            place.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A config folder of the user's with data=leaky, whose code lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "leaky.yaml").write_text("_target_: leaky.Leaky\nshared: true\n")
    (tmp_path / "leaky.py").write_text(LEAKY)
    return tmp_path / "conf"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))


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
    sorted({path.stem for path in (conf_dir() / "data").glob("*.yaml")} - {"folder", "union"}),
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


def test_check_finds_a_planted_copy_and_a_class_in_two_splits_is_exit_code_1(command_line, images, own):
    (images / "test" / "test0" / "9.png").write_bytes((images / "train" / "train1" / "0.png").read_bytes())
    code, said = command_line("data", "check", "folder", f"data.root={images}", "data.size=16", "out=found")
    assert code == 0
    assert "pairs of identical images: 1, 1 of them across splits" in said
    assert "train/train1/0.png = test folder:" in said
    assert (Path("found") / "leaks.json").is_file()
    code, said = command_line("data", "check", "leaky", "--config-dir", str(own))
    assert code == 1
    assert "classes in two splits: 1\n  both: train and test" in said
    assert "no val split: there is no validation here" in said
    assert command_line("data", "check", "leaky", "data.shared=false", "--config-dir", str(own))[0] == 0


def test_check_reports_what_a_training_refuses_in_a_folder(command_line, images, tmp_path):
    (images / "test" / "test0").rename(images / "test" / "train0")
    for twin in ("train/again", "val/other"):
        shutil.copytree(images / "train" / "train1", images / twin)
    words = ("data", "check", "folder", f"data.root={images}", "data.size=16")
    code, said = command_line(*words, f"out={tmp_path}")
    assert code == 1
    assert "classes in two splits: 2\n  again = train1 = other: train and val\n" in said
    assert "\n  train0: train and test\npairs of identical images: 9, 6 of them across splits\n" in said
    assert "  train folder:" in said
    found = json.loads((tmp_path / "leaks.json").read_text())["classes"]
    assert found == {"again = train1 = other": ["train", "val"], "train0": ["train", "test"]}
    for harmless in ("test/train0", "val/other"):
        shutil.rmtree(images / harmless)
    code, said = command_line(*words)
    assert (code, "classes in two splits: none\nclasses of one split with the same images: 1\n" in said) == (0, True)
    shutil.rmtree(images / "train" / "again")
    (images / "val" / "val1").rename(images / "val" / "train0")
    assert command_line(*words)[0] == 1
    assert command_line(*words, "data.allow_same_names=true")[0] == 0
    code, said = command_line("data", "prepare", *words[2:])
    assert (code, "1 class names stand in two of train/ val/ test/: train0" in said) == (1, True)


def test_check_names_every_file_that_cannot_be_read(command_line, images, tmp_path):
    for i in range(25):
        (images / "val" / "val3" / f"broken{i:02d}.jpg").write_bytes(b"")
    words = ("data", "check", "folder", f"data.root={images}", "data.size=16", f"out={tmp_path}")
    for _ in range(2):  # the second time from the store
        code, said = command_line(*words)
        assert (code, "files that cannot be read: 25\n  val/val3/broken00.jpg\n" in said) == (0, True)
        found = json.loads((tmp_path / "leaks.json").read_text())["unreadable"]
        assert found == [f"val/val3/broken{i:02d}.jpg" for i in range(25)]


def test_check_reports_a_folder_in_a_union_as_it_does_the_folder_alone(command_line, images, tmp_path):
    (images / "test" / "test0").rename(images / "test" / "train0")
    (images / "val" / "val3" / "broken.jpg").write_bytes(b"")
    shutil.copy(images / "train" / "train1" / "0.png", images / "test" / "test2" / "copy.png")
    members = ("+data@data.members.mine=folder", "+data@data.members.other=glyphs")
    own = (f"data.members.mine.root={images}", "data.members.mine.size=16", "data.members.other.images=2")
    words = ("data", "check", "union", *members, *own)
    code, said = command_line(*words, f"out={tmp_path}")
    assert code == 1, said
    assert "classes in two splits: 1\n  mine/train0: train and test\n" in said
    assert "files that cannot be read: 1\n  mine/val/val3/broken.jpg" in said
    same = [{place["file"] for place in places} for places in json.loads((tmp_path / "leaks.json").read_text())["same"]]
    assert {"mine/train/train1/0.png", "mine/test/test2/copy.png"} in same
    assert command_line(*words, "data.members.mine.allow_same_names=true")[0] == 0
    code, said = command_line("data", "prepare", *words[2:])
    assert (code, "1 class names stand in two of train/ val/ test/: train0" in said) == (1, True)


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
        assert page.size[1] == sheet.GAP + rows * (4 * 16 + sheet.GAP + sheet.LABEL)
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


def test_show_draws_an_episode_as_the_task_and_the_data_have_it(command_line, tmp_path):
    path, words = tmp_path / "a.png", ("data.images=8", "what=episode", f"out={tmp_path / 'a.png'}")
    code, said = command_line("data", "show", "glyphs", *words, "task=variable", "task.way=9", "task.query=2")
    assert code == 0, said
    row = 84 + sheet.GAP + sheet.LABEL  # 28 pixels, three times as large
    with Image.open(path) as page:
        assert (page.size[1] - sheet.GAP) % row == 0
        assert 5 <= (page.size[1] - sheet.GAP) // row <= 9


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
        ("metalab data ", "list\nprepare\ncheck\nshow\n"),
        ("metalab da", "data\n"),
        ("metalab data check cifarf", "cifarfs\n"),
    ):
        env = {**os.environ, "COMP_LINE": line}
        words = [sys.executable, "-c", script, "metalab", "-sc", "query=bash"]
        assert subprocess.run(words, capture_output=True, text=True, env=env).stdout == expected
