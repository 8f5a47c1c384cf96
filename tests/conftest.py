"""Tiny data for everybody, and training on it in this process."""

import importlib
import logging
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from metalab.cli import app
from metalab.config.paths import conf_dir
from metalab.core.interfaces import Split

TINY = Path(__file__).parent / "tiny_data"
SMALL = (  # a training of a second
    "data=tiny",
    "device=cpu",
    "backbone.filters=4",
    "task.query=3",
    "task.train_way=5",
    "train.steps=4",
    "train.val_every=2",
    "train.val_episodes=4",
    "train.log_every=2",
    "eval.episodes=6",
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the cores may be busy; and the last digit of a sum hangs on how it is split


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, so that no worker is left with it at the end."""
    items.sort(key=lambda item: not item.name.startswith("test_every_command_runs"))


@pytest.fixture(autouse=True)
def _no_runs_of_other_tests():
    """What one command line registers with Hydra is not there for the next, which is another process."""
    yield
    groups = [ConfigStore.instance().repo]
    while groups:
        group = groups.pop()
        groups += [inside for inside in group.values() if isinstance(inside, dict)]
        for name in [name for name in group if name.startswith("_run")]:
            del group[name]


@pytest.fixture(scope="session")
def tiny() -> dict[str, Split]:
    """Train, val and test of the tiny data: 16x16 grey, 40 / 12 / 12 classes of 12 images."""
    Tiny = importlib.import_module("tiny_parts").Tiny

    return {name: Tiny(12, 16, 1, 0, "").load(name) for name in ("train", "val", "test")}


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """The folder for --config-dir (data=tiny, engine=doomed) and for PYTHONPATH."""
    return TINY


class Small:
    """Compose `metalab train` on tiny data with a tiny net; later overrides win."""

    words = SMALL

    def __call__(self, *overrides: str) -> DictConfig:
        return deepcopy(_composed(overrides))


@lru_cache(maxsize=1000)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """Compose once what many tests ask for: Hydra takes 60 times what a copy does."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", [f"hydra.searchpath=[file://{TINY}]", *SMALL, *overrides])


@pytest.fixture(scope="session")
def small() -> Small:
    """The callable small("key=value", ...) -> cfg, a training of a second; its words are small.words."""
    return Small()


@pytest.fixture
def command_line(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Run `metalab WORDS` in this process: command_line(*words) -> exit code, what was printed."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def typed(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["metalab", *words])
        monkeypatch.setattr(logging, "raiseExceptions", True)  # main turns it off, for this test alone
        try:
            app.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            root.handlers[:], root.level = handlers, level
        out, err = capsys.readouterr()
        return (1, f"{out}{err}{code}") if isinstance(code, str) else (code, out + err)

    return typed


sys.path.append(str(TINY))
