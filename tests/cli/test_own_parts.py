"""A part of the user's own, one file and one YAML: taken wherever the command names it."""

import re
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/how-to/add-an-algorithm.md").read_text(encoding="utf-8")
REFUSED = "algo._target_=nearest_mean.NearestMean: it is no part of metalab, and this command does not name it."


@pytest.fixture
def trained(command_line, small, tiny_dir, tmp_path, monkeypatch):
    """A run of the algorithm that the page adds, in the current folder, on the tests' own data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    python, yaml = (re.findall(rf"```{kind}\n# (\S+)\n(.*?)```", PAGE, re.S) for kind in ("python", "yaml"))
    for name, text in (*python, *yaml):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    sys.modules.pop("nearest_mean", None)
    data = f"hydra.searchpath=[file://{tiny_dir}]"
    words = ("--config-dir", "my_conf", "algo=nearest_mean", data, *small.words, "hydra.run.dir=run")
    assert command_line("train", *words)[0] == 0
    return data


@pytest.mark.slow
def test_evaluation_takes_it_where_the_command_names_it(trained, command_line):
    words = ("run=run", trained, "data.absent=", "device=cpu")
    code, said = command_line("eval", *words)
    assert (code, REFUSED in said) == (1, True), said

    assert "name it: --config-dir FOLDER with the YAML that has it, or algo._target_=nearest_mean.NearestMean" in said
    code, said = command_line("eval", "--config-dir", "my_conf", *words)
    assert (code, "nearest_mean" in said) == (0, True), said
    code, said = command_line("eval", "algo._target_=nearest_mean.NearestMean", *words)
    assert code == 0, said


def test_resume_takes_it_where_the_command_names_it(trained, command_line):
    words = ("resume=run", trained, "train.steps=5")
    code, said = command_line("train", *words)
    assert (code, REFUSED in said) == (1, True), said
    code, said = command_line("train", "--config-dir", "my_conf", *words)
    assert (code, "finished 5 steps" in said) == (0, True), said
