"""What the README says works: every command in it is run, long trainings cut to one step."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("metalab ")
]
SHORT = {
    "train": "device=cpu train.steps=1 train.meta_batch=1 train.val_episodes=2 task.query=2 eval.batch=2",
    "eval": "device=cpu eval.episodes=2 eval.batch=2",
}


@pytest.fixture
def images(tmp_path) -> Path:
    """A user's folder: 32 classes of five coloured pictures."""
    draw = np.random.default_rng(0)
    for k in range(32):
        (tmp_path / "images" / f"class{k}").mkdir(parents=True)
        for i in range(5):
            pixels = draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"class{k}" / f"{i}.png")
    return tmp_path / "images"


def test_every_command_runs(tmp_path, images, command_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    python, yaml = (re.findall(rf"```{kind}\n# (\S+)\n(.*?)```", README, re.S) for kind in ("python", "yaml"))
    for name, text in (*python, *yaml):  # the algorithm that the README adds
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        _, kind, *words = shlex.split(command.replace("/path/to/images", str(images)).replace("run=RUN", "run=latest"))
        if kind != "data" and "--help" not in words:
            words += SHORT[kind].split()
        if any(word.startswith("experiment=") for word in words):  # their data may not be there: compose alone
            words += ["--cfg", "job"]
        if "data=folder" in words and kind == "train":
            words += ["data.size=16", "task.train_way=5"]
        if "resume=latest" in words:
            words += ["train.steps=2", "task.query=2"]
        code, said = command_line(kind, *words)
        assert code == 0, f"{command}\n{said}"


def test_every_option_there_is_stands_in_the_readme():
    conf = Path(__file__).parents[1] / "conf"
    for group in ("algo", "data", "backbone", "task", "reg", "attack", "optim", "experiment"):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}`"))
        for option in (conf / group).glob("*.yaml"):
            assert f"`{option.stem}`" in row, f"{group}={option.stem}"


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_no_number_is_still_to_come(name):
    text = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
    assert re.findall(r"^[A-Z]{3,}$|being measured|TODO", text, re.M) == []
