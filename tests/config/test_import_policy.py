"""Another's run folder is data, not a program: nothing that it names runs, and nothing is written elsewhere."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from metalab.config import run_config
from metalab.training import train

EVIL = """
import pathlib
pathlib.Path({trace!r}).touch()


def touched(*given, **named):
    import logging
    return logging.NullHandler()


class Part:
    pass
"""
RUN, SAVED = "config.yaml", "last.pt"
SHORT = {"eval": ("eval.split=val", "device=cpu"), "train": ("device=cpu",)}
CONSOLE = {"version": 1, "handlers": {"file": {"()": "evil_part.touched"}}, "root": {"handlers": ["file"]}}
HYDRA = {  # what Hydra itself would obey
    "the folder of the output": {"run": {"dir": "elsewhere"}},
    "the folder of a sweep": {"sweep": {"dir": "elsewhere"}, "mode": "MULTIRUN"},
    "the folder of its records": {"output_subdir": "../../../elsewhere"},
    "the current folder": {"job": {"chdir": True}},
    "the environment": {"job": {"env_set": {"EVIL": "1"}}},
    "a handler of the log": {"job_logging": CONSOLE},
    "a handler of Hydra's log": {"hydra_logging": CONSOLE},
    "a callback": {"callbacks": {"evil": {"_target_": "evil_part.Part"}}},
    "a launcher": {"launcher": {"_target_": "evil_part.Part"}},
    "a sweeper": {"sweeper": {"_target_": "evil_part.Part"}},
    "folders of YAML": {"searchpath": ["file://evil_conf"]},
}
NAMES = {  # what metalab would import
    "the algorithm": "algo._target_=evil_part.Part",
    "the data": "data._target_=evil_part.Part",
    "the backbone": "backbone._target_=evil_part.Part",
    "the engine": "engine._target_=evil_part.Part",
    "a regularizer": "reg.evil={_target_: evil_part.Part}",
    "a member of a union": "data={_target_: metalab.data.Union, weights: {}, size: 16, channels: 1, "
    "members: {a: {_target_: evil_part.Part}, b: {_target_: evil_part.Part}}}",
    "the loss": "algo.episode_loss=evil_part.touched",
    "the loss at the test": "algo.test_episode_loss=evil_part.touched",
    "a further objective": "algo.besides=evil_part.Part",
    "what a part of metalab imports": "algo.episode_loss=metalab.evaluation.robust_objective.partial",
    "a module of metalab that is no part": "algo.episode_loss=metalab.__main__.main",
}
RESUMED = {  # what a training that goes on would import
    "the backbone": "backbone._target_=evil_part.Part",
    "the optimizer": "optim._target_=evil_part.Part",
    "the objective": "algo.objective=evil_part.Part",
}


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train.run(small(), out)
    return out


@pytest.fixture
def stranger(trained, tmp_path, monkeypatch) -> Path:
    """Their archive, unpacked in the current folder: a run, and beside it what they hope will be run."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "evil_part.py").write_text(EVIL.format(trace=str(tmp_path / "trace")))
    (tmp_path / "evil_conf/hydra/callbacks").mkdir(parents=True)
    (tmp_path / "evil_conf/hydra/callbacks/evil.yaml").write_text("evil:\n  _target_: evil_part.Part\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # as PYTHONPATH=. or python -m would have it
    return tmp_path


def altered(folder: Path, change: Callable[[dict[str, Any]], Any], names: tuple[str, ...] = ("best.pt", "last.pt")):
    """Change the run's config.yaml, and the configuration in its checkpoints alike."""
    held: Any = OmegaConf.to_container(OmegaConf.load(folder / RUN))
    change(held)
    (folder / RUN).write_text(OmegaConf.to_yaml(OmegaConf.create(held)))
    for name in names:
        saved = torch.load(folder / name, weights_only=True)
        change(saved["config"])
        torch.save(saved, folder / name)


def set_in(word: str) -> Callable[[dict[str, Any]], None]:
    """Return what sets a dotted key to a value as YAML has it."""
    key, _, value = word.partition("=")
    given = OmegaConf.to_container(OmegaConf.create(f"v: {value}"))["v"]  # type: ignore[index,call-overload]

    def change(held: dict[str, Any]) -> None:
        *groups, name = key.split(".")
        for group in groups:
            held = held[group]
        held[name] = given

    return change


def assert_no_trace(folder: Path, before: set[str]) -> None:
    """Nothing ran, and nothing is new but what metalab writes below outputs/ and, resumed, in the run's folder."""
    assert not (folder / "trace").exists()
    assert "evil_part" not in sys.modules
    assert "EVIL" not in os.environ
    assert Path.cwd() == folder
    new = {str(path.relative_to(folder)) for path in folder.rglob("*")} - before
    assert {name for name in new if not name.startswith(("outputs", "run/"))} == set()


def there(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def told(stranger, command_line, tiny_dir):
    """Run a command beside the stranger's folder, see to it that it left no trace, and return code and message."""

    def run(*words: str) -> tuple[int, str]:
        before = there(stranger)
        kind, *rest = words
        code, said = command_line(kind, f"--config-dir={tiny_dir}", *SHORT[kind], *rest)
        assert_no_trace(stranger, before)
        assert "Traceback" not in said
        return code, said

    return run


@pytest.mark.slow
@pytest.mark.parametrize("what", HYDRA)
def test_no_node_of_hydras_is_obeyed(stranger, told, what):
    altered(stranger / "run", lambda held: held.update(hydra=HYDRA[what]), names=())
    code, said = told("eval", "run=run")
    assert (code, "checkpoint" in said) == (0, True), said
    assert len(list(stranger.glob("outputs/eval/*/*/eval.json"))) == 1
    code, said = told("train", "resume=run")
    assert (code, "finished 4 steps. Nothing is done" in said) == (0, True), said


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "algo."])
def test_no_list_of_defaults_is_obeyed(stranger, told, where):
    node = [{"override /hydra/callbacks": "evil"}, {"override /data": "nowhere"}, "_self_"]

    def change(held: dict[str, Any]) -> None:
        (held["algo"] if where else held)["defaults"] = node
        held["hydra"] = HYDRA["folders of YAML"]

    altered(stranger / "run", change, names=())
    assert told("eval", "run=run")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", NAMES)
def test_no_part_is_imported(stranger, told, what):
    altered(stranger / "run", set_in(NAMES[what]))
    code, said = told("eval", "run=run")
    assert code == 1
    assert "it is no part of metalab, and this command does not name it." in said


@pytest.mark.parametrize("what", RESUMED)
def test_no_part_is_imported_to_go_on(stranger, told, what):
    altered(stranger / "run", set_in(RESUMED[what]))
    code, said = told("train", "resume=run", "train.steps=5")
    assert code == 1
    assert "it is no part of metalab, and this command does not name it." in said


def test_the_engine_that_a_checkpoint_names_is_not_imported(stranger, told):
    saved = torch.load(stranger / "run" / SAVED, weights_only=True)
    torch.save(saved | {"engine": {"_target_": "evil_part.Part"}}, stranger / "run" / SAVED)
    code, said = told("train", "resume=run")
    assert code == 1
    assert said.endswith(
        "engine._target_=evil_part.Part: it is no part of metalab, and this command does not name it. A run's folder "
        "is data, from which no module is imported. Where it is your own, name it: --config-dir FOLDER with the YAML "
        "that has it, or engine._target_=evil_part.Part"
    )


def test_the_training_data_that_a_checkpoint_names_are_not_imported(stranger, told):
    saved = torch.load(stranger / "run" / "best.pt", weights_only=True)
    saved["config"]["data"]["_target_"] = "evil_part.Part"
    torch.save(saved, stranger / "run" / "best.pt")
    code, said = told("eval", "run=run", "algo=simpleshot")  # takes the mean of the training images
    assert (code, "data._target_=evil_part.Part: it is no part of metalab" in said) == (1, True), said


def test_no_expression_is_computed(stranger, told):
    altered(stranger / "run", set_in("data.absent=${oc.env:HOME}"))
    code, said = told("eval", "run=run")
    assert (code, "data.absent=${oc.env:HOME} is an expression, and a run's settings are plain values" in said) == (
        1,
        True,
    )


def test_no_cache_is_made_where_a_run_names_one(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    altered(tmp_path / "run", set_in(f"data.cache={tmp_path / 'elsewhere'}"))
    assert run_config.read(tmp_path / "run")["data"]["cache"] is None
    (tmp_path / "elsewhere").mkdir()
    assert run_config.read(tmp_path / "run")["data"]["cache"] == str(tmp_path / "elsewhere")


def test_resume_writes_through_no_link(stranger, told):
    (stranger / "run/train.log").symlink_to(stranger / "profile")
    code, said = told("train", "resume=run")
    assert (code, "run holds a link, train.log, and resume writes into the run's folder" in said) == (1, True), said


@pytest.mark.parametrize("text", ["a: &a [1]\nb: [*a, *a]\n", "x: " + "[" * 100, "a: 1\n" * 10**6])
def test_no_file_is_blown_up(stranger, told, text):
    with (stranger / "run" / RUN).open("a") as file:
        file.write(text)
    code, said = told("eval", "run=run")
    assert (code, "config.yaml cannot be read: it has " in said) == (1, True), said


@pytest.mark.slow
@pytest.mark.parametrize("words", [("train", "--cfg", "job", "-p", "seed"), ("data", "check", "glyphs", "data.no=1")])
def test_no_plugin_of_hydras_is_taken_from_the_current_folder(tmp_path, words):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/evil.py").write_text(EVIL.format(trace=str(tmp_path / "trace")))
    code = "import sys; sys.path.remove(''); from metalab.cli import main; main()"  # as the installed command has it
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert not (tmp_path / "trace").exists()
