"""Paths and patterns are typed as they are; what means a sweep or a list to Hydra goes on meaning it."""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalab.cli.quoting import quote_override
from metalab.config.paths import at_home
from tests.cli.bench import ROOT

PATHS = ["/x/plä", "/x/été (1)", "/x/(a)", "/x/a=b", "/x/it's", "/x/a{1}", "~/x", "/x/a#b", "/x/a,b=c", '/x/"q" é\\']


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_any_path_is_read_as_typed(bench, path):
    for word in (f"data.root={path}", f"data.root='{path}'" if path == PATHS[0] else f"data.cache={path}"):
        assert bench("train", "data=folder", word) == (0, "", "")
        assert bench.trained.pop()[0].data[word.split("=")[0].removeprefix("data.")] == path


def test_a_comma_is_of_the_path_where_there_is_such_a_folder(bench, tmp_path):
    (tmp_path / "a,b").mkdir()
    assert bench("train", "data=folder", "data.root=a,b")[0] == 0
    assert bench.trained[0][0].data.root == "a,b"
    assert "Ambiguous value for argument 'data.root=a,c'" in bench("train", "data=folder", "data.root=a,c")[2]


@pytest.mark.slow
def test_sweeps_and_lists_of_runs_with_odd_letters(bench, tmp_path):
    names = ["plä", "b=1", "c"]
    for name in names:
        bench.new_run(f"hydra.run.dir='{name}'")
    for run, expected in (
        ("run=c,plä", [["c"], ["plä"]]),
        ("run=[plä,c],b=1", [["plä", "c"], ["b=1"]]),
        ("run=c,[c,b=1]", [["c"], ["c", "b=1"]]),
    ):
        bench.evaluated.clear()
        assert bench("eval", "-m", run)[0] == 0
        assert [[str(folder) for folder, _ in pairs] for pairs, _ in bench.evaluated] == expected
    bench.evaluated.clear()
    assert bench("eval", "run=[plä,b=1]")[0] == 0
    assert [str(folder) for folder, _ in bench.evaluated[0][0]] == names[:2]
    assert bench("train", "resume=plä")[0] == 0
    assert bench("train", "train.init=b=1")[0] == 0
    assert bench.trained[-1][0].train.init == "b=1"


@pytest.mark.parametrize(
    ("word", "multirun"),
    [
        ("run=a,b", True), ("run=[a,b]", False), ("run=[a,b],c", True), ("run='é'", False), ("data.group=null", False),
        ("data.group=a,b", True), ("algo.name=é", False), ("data.root=/plain/path", False), ("data.root=", False),
        ("data.root=null", False), ("~data", False),
    ],
)  # fmt: skip
def test_what_hydra_reads_stays_as_typed(word, multirun):
    assert quote_override(word, multirun) == word


@pytest.mark.parametrize("pattern", [r"video(\d+)_", r"frame\(\d+\)", "[0-9]", r"_(\d{1,2})\.png", "a,b", "(a|é)=', "])
def test_a_pattern_is_read_as_typed(bench, pattern):
    assert bench("train", "data=folder", f"data.group={pattern}") == (0, "", "")
    assert bench.trained[0][0].data.group == pattern


def test_the_documented_pattern_runs_as_a_shell_hands_it_over(command_line, bench, tmp_path):
    for k in range(6):
        (tmp_path / "plä" / f"class{k}").mkdir(parents=True)
        for i in range(8):
            image = np.full((8, 8, 3), (40 * k, 30 * i, 0), np.uint8)
            Image.fromarray(image).save(tmp_path / "plä" / f"class{k}" / f"video{i // 2}_{i}.png")
    words = re.findall(r"`(data\.group='.*?')` with `data=folder`", (ROOT / "docs" / "data.md").read_text("utf-8"))
    for word in words:
        more = (f"data.root={tmp_path}/plä", f"data.cache={tmp_path}/é", "data.ratios=[0.34,0.33,0.33]", "data.size=8")
        asked = ("what=episode", "task.way=2", "task.shot=1", "task.query=1", f"out={tmp_path}/ü.png")
        code, said = command_line("data", "show", "folder", *shlex.split(word), *more, *asked)
        assert code == 0, said
        assert Path(tmp_path, "ü.png").is_file()
    assert len(words) == 1


FOLDERS_OF_IMAGES = ["support", "images", "data.source_root", "data.target_root", "data.members.a.root", "data.labels"]


@pytest.mark.parametrize(
    "key",
    [
        *("reg.distill.teacher", "reg.replay.memory", "eval.baseline", "backbone.weights", "backbone.classes"),
        *FOLDERS_OF_IMAGES,
    ],
)
def test_every_key_that_takes_a_path_takes_any(key, monkeypatch):
    """Predict's support= and images= ended in a message of Hydra's lexer."""
    monkeypatch.setenv("HOME", "/home/me")
    not_utf8 = os.fsdecode(b"runs/a\xff")
    for path in ("runs/a=1,b=2", "runs/my run (1)", "runs/plä", not_utf8):
        assert quote_override(f"{key}={path}", False) == f"{key}='{path}'"
    if key.startswith(("reg.", "eval.")):
        assert quote_override(at_home(f"{key}=~/a=1"), False) == f"{key}='/home/me/a=1'"


def test_a_comma_in_a_list_is_of_the_path_where_there_is_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a=1,b=2", "runs/c=3,d=4", "e"):
        (tmp_path / name).mkdir(parents=True)
    for key, value, expected in (
        ("train.boost", "[runs/a=1,b=2]", "['runs/a=1,b=2']"),
        ("run", "[e,runs/a=1,b=2,runs/c=3,d=4]", "[e,'runs/a=1,b=2','runs/c=3,d=4']"),
        ("run", "[runs/a=1,e]", "['runs/a=1',e]"),
    ):
        assert quote_override(f"{key}={value}", False) == f"{key}={expected}"
