"""An empty path is an error wherever a path is taken, and ~ is the home folder."""

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest

from metalab.config.instantiate import build
from metalab.config.paths import given_path, typed
from metalab.config.root_checks import validate_root
from metalab.config.validate import check_type
from metalab.core.errors import UserError
from metalab.data.datasets.folder import Folder
from metalab.data.storage.store import cache_folder
from metalab.models.pretrained.torchvision_backbone import Torchvision
from tests.data.folder import tree


@pytest.fixture
def home(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def run(home) -> Path:
    """A run that can be found, in the home folder."""
    folder = home / "x"
    folder.mkdir()
    for name in ("best.pt", "last.pt"):
        (folder / name).write_bytes(b"")
    groups = "{algo: {name: protonet}, data: {}, backbone: {}, task: {}}"
    (folder / "config.yaml").write_text(groups)
    return folder


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("train", "hydra.run.dir="), "hydra.run.dir"),
        (("train", "-m", "seed=1,2", "hydra.sweep.dir="), "hydra.sweep.dir"),
        (("train", "--config-dir="), "--config-dir"),
        (("train", "hydra.run.dir=''"), "hydra.run.dir"),
    ],
)
def test_an_empty_path_on_the_command_line_is_an_error(bench, words, key):
    code, _, err = bench(*words)
    assert code == 1
    assert f"metalab: {key}= is empty: expected a path (is a shell variable not set?); type {key}=" in err
    assert (bench.trained, bench.evaluated) == ([], [])


@pytest.mark.parametrize("word", ["run=['']", "run=[x,'']", "run=[null]"])
def test_an_empty_run_among_others_is_an_error(bench, run, monkeypatch, word):
    monkeypatch.chdir(run.parent)
    code, _, err = bench("eval", word)
    assert (code, "metalab: which run?" in err) == (1, True)
    assert bench.evaluated == []


@pytest.mark.parametrize("key", ["root", "cache"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_folder_of_data_is_not_the_current_one(small, tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(tmp_path)
    cfg = small("data=folder", "data.size=28", f"data.{key}='{value}'")
    with pytest.raises(UserError, match=rf"^data\.{key}= is empty: expected a path"):
        validate_root(cfg)
    tree(tmp_path / "images")
    cfg.data.update({"root": str(tmp_path / "images"), "cache": str(tmp_path)} | {key: value})
    with pytest.raises(UserError, match=rf"^data\.{key}= is empty: expected a path"):
        build(cfg.data, "data").load("train")
    cfg = small("data=miniimagenet", f"data.{key}='{value}'")
    with pytest.raises(UserError, match=rf"^data\.{key}= is empty: expected a path"):
        build(cfg.data, "data").load("train")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("check", "folder", "data.root="), 1, "data.root= is empty: expected a path"),
        (
            ("check", "glyphs", "out="),
            1,
            "out= is empty: expected a path (is a shell variable not set?); type out=FOLD",
        ),
        (("show", "glyphs", "out="), 1, "out= is empty: expected a path"),
        (("list", "--config-dir", ""), 2, "--config-dir FOLDER: expected a folder that holds data/*.yaml"),
    ],
)
def test_an_empty_path_of_metalab_data_is_an_error(command_line, tmp_path, monkeypatch, words, code, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    found, said = command_line("data", *words)
    assert (found, why in said) == (code, True), said


@pytest.mark.parametrize("key", ["weights", "classes"])
def test_an_empty_file_of_weights_is_an_error(key):
    given: dict[str, Any] = {"name": "resnet18", "weights": "DEFAULT", "classes": "none", key: ""}
    with pytest.raises(UserError, match=rf"^backbone\.{key}= is empty"):
        Torchvision(**given)


@pytest.mark.slow
def test_the_home_folder_is_written_out_for_runs(bench, run):
    assert bench("eval", "run=~/x")[0] == 0
    assert bench.evaluated[0][0][0][0] == run
    assert bench("eval", "run=[~/x]")[0] == 0
    assert bench("eval", "run='~/x'")[0] == 0
    assert bench("eval", "-m", "run=~/x", "seed=1,2")[0] == 0
    assert [runs[0][0] for runs, _ in bench.evaluated] == [run] * 5
    assert bench("train", "resume=~/x")[0] == 0
    assert bench.trained[0][1] == run
    assert bench("train", "train.init=~/x")[0] == 0
    assert bench.trained[1][0].train.init == str(run)


def test_the_home_folder_is_written_out_for_what_hydra_writes(bench, home, tmp_path):
    assert bench("train", "hydra.run.dir=~/out/a")[0] == 0
    assert bench.trained[0][1] == home / "out" / "a"
    assert bench("train", "-m", "seed=1,2", "hydra.sweep.dir=~/out/b")[0] == 0
    assert [out for _, out in bench.trained[1:]] == [home / "out" / "b" / "0", home / "out" / "b" / "1"]
    assert not (tmp_path / "~").exists()
    (home / "mine" / "task").mkdir(parents=True)
    (home / "mine" / "task" / "tiny.yaml").write_text("defaults: [fixed]\nway: 3\n")
    assert bench("train", "--config-dir=~/mine", "task=tiny")[0] == 0
    assert bench.trained[-1][0].task.way == 3


def test_the_home_folder_is_written_out_for_data(home, tmp_path):
    assert cache_folder("~/c") == home / "c"
    assert check_type("~/c", Path, "x") == home / "c"
    with pytest.raises(UserError, match="expected a path"):
        check_type("", Path, "x")
    with pytest.raises(UserError, match=r"data\.root=~/nowhere does not exist"):
        Folder("~/nowhere", str(tmp_path), 28, 3, [0.6, 0.2, 0.2], 0, False).load("train")
    with pytest.raises(UserError, match=rf"backbone\.weights={home}/w\.pt: neither a file"):
        Torchvision("resnet18", "~/w.pt", "none").load(Torchvision("resnet18", "DEFAULT", "none").build(3, 32))


def test_a_home_folder_that_nobody_has_is_told():
    with pytest.raises(UserError, match=r"^run=~nobody-is-called-so/x: .*; type the whole path, as run=a/run$"):
        given_path("~nobody-is-called-so/x", "run", "a/run")


def test_the_scripts_take_no_empty_path_either(home):
    assert typed("~/out") == home / "out"
    with pytest.raises(ArgumentTypeError, match=r"^expected a path, and it is empty"):
        typed("")
