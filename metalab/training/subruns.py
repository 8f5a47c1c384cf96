"""Runs below a run: each in a folder of its own, begun or gone on with by one command."""

from copy import deepcopy
from pathlib import Path

from omegaconf import DictConfig

from metalab.training import train


def train_or_go_on(cfg: DictConfig, folder: Path) -> float:
    """Train a run in its folder, or go on with what is there; return its best validation accuracy, a fraction.

    One that has ended is left as it is.

    Raises:
        UserError: as train.run, and where the run that is there has other settings.
    """
    if any((folder / name).exists() for name in ("last.pt", "best.pt")):
        cfg = deepcopy(cfg)
        cfg.resume = str(folder)
    return train.run(cfg, folder)
