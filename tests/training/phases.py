"""Configurations of phases, as the command line composes them."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from metalab.cli.phases import following
from metalab.training import phases, train


def train_in_phases(small, out: Path, *each: tuple[str, ...]) -> float:
    """Train phases in the folder out, each of these words; return what the training returns."""
    whole = small(*each[0], f"train.phases={[{'optim.lr': 0.001}] * len(each)}".replace("'", ""))
    with pytest.MonkeyPatch.context() as patch:  # the pictures of a run take longer than its training
        patch.setattr(train, "save_final_figures", lambda *_: None)
        return phases.run(whole, composed(small, out, *each), out)


def composed(small, out: Path, *each: tuple[str, ...]) -> list[DictConfig]:
    """Return the configuration of each phase."""
    return [following(small(*words), out, k) for k, words in enumerate(each)]
