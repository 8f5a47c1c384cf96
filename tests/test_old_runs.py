"""Runs of released versions, kept in old_runs: today's version goes on with them, with the numbers that they had."""

import json
import shutil
from pathlib import Path

import pytest

from metalab.config import upgrade
from metalab.config.instantiate import locate
from metalab.config.moved_names import MOVED
from metalab.core.statistics import t95
from tests.old_runs import make

HOME = Path(__file__).parent / "old_runs"
RUNS = sorted(path.parent.relative_to(HOME) for path in HOME.glob("*/*/config.yaml"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("old")
    make.pictures(home / "images")
    make.digits(home / "digits")
    return home


@pytest.fixture(params=RUNS, ids=str)
def run(request, tmp_path, images) -> tuple[Path, tuple[str, ...]]:
    """A copy of an old run, and the words that say where its images are now."""
    shutil.copytree(HOME / request.param, tmp_path / "run")
    return tmp_path / "run", make.data(make.RUNS[request.param.name], images)


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_old_run_goes_on_as_the_version_that_made_it_would_have(run, command_line):
    """With more steps alone it was refused for settings that did not exist then, as attack.eps."""
    out, where = run
    by_image = "protocol: images" in (out / "config.yaml").read_text(encoding="utf-8")  # 20 images, else 4 episodes
    before = (out / "metrics.jsonl").read_text(encoding="utf-8")
    begun = lines(out / "metrics.jsonl")[-1]["step"]
    code, said = command_line("train", f"resume={out}", "train.steps=6", *where)
    assert code == 0, said
    assert "changed: data.cache=" in said
    after, whole = lines(out / "metrics.jsonl"), lines(out / "whole.jsonl")
    assert (out / "metrics.jsonl").read_text(encoding="utf-8").startswith(before)
    assert [line["step"] for line in after] == [line["step"] for line in whole]
    for line, old in zip(after, whole, strict=True):
        old.pop("time/step_ms", None)
        if "val/ci95" in old and line["step"] > begun:  # 1.96 standard errors then, Student's now
            old["val/ci95"] *= t95(20 if by_image else 4) / 1.96
        assert {tag: line[tag] for tag in old} == pytest.approx(old, rel=1e-3), f"step {line['step']}"


def test_an_old_run_can_be_evaluated(run, command_line, tmp_path):
    out, where = run
    code, said = command_line("eval", f"run={out}", f"hydra.run.dir={tmp_path / 'eval'}", *where)
    assert code == 0, said
    assert 0 <= json.loads((tmp_path / "eval" / "eval.json").read_text(encoding="utf-8"))["accuracy"] <= 1


def test_every_kind_of_run_is_kept():
    assert {path.name for path in RUNS} == set(make.RUNS)


def test_a_new_setting_takes_what_reproduces_the_run_not_todays_default():
    node = {"train": {"steps": 4}, "eval": {"bn": "running"}, "seed": 1, "algo": {"name": "maml"}}
    whole = upgrade.upgrade_config(node)
    assert whole["train"] == {
        "steps": 4,
        "workers": None,
        "weights": None,
        "on_warning": "save",
        "generations": 1,
        "bootstrap": None,
        "boost": None,
        "snapshots": None,
        "keep_best": 1,
        "phases": None,
        "cycles": 1,
        "keep_classes": False,
        "prune_after": None,
        "prune_warmup": 0,
    }
    assert whole["eval"] == {
        "bn": "running",
        "eps": None,
        "embed": None,
        "unknown": None,
        "folds": None,
        "report": True,
        "temperature": None,
        "baseline": None,
        "tent": None,
        "corrupt": None,
        "severities": [1, 2, 3, 4, 5],
        "corrupt_on": "query",
    }
    assert (whole["seed"], whole["algo"]) == (1, {"name": "maml"})
    assert upgrade.upgrade_config({"train": "broken"})["train"] == "broken"  # which is told where it is read


def test_whatever_a_run_names_is_found_where_it_is_now():
    for old, new in MOVED.items():
        assert locate(old, "_target_") is locate(new, "_target_")
        assert new not in MOVED
    node = {
        "algo": {"objective": "metalab.objectives.QueryLoss"},
        "reg": {"l2": {"_target_": "metalab.regularisers.L2"}},
    }
    whole = upgrade.upgrade_config(node)
    assert whole["algo"]["objective"] == "metalab.algorithms.objectives.QueryLoss"
    assert whole["reg"]["l2"]["_target_"] == "metalab.regularizers.L2"
