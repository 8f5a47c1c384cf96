"""Runs on tiny data, and folders of its pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from metalab.training import train


@pytest.fixture(scope="session")
def run_of(tmp_path_factory, small) -> Callable[..., Path]:
    """Return run_of("algo=protonet", ...) -> the folder of a short training with these overrides, made once each."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in made:
            folder = tmp_path_factory.mktemp("run")
            cfg = small(*overrides)
            OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
            train.run(cfg, folder)
            made[overrides] = folder
        return made[overrides]

    return run
