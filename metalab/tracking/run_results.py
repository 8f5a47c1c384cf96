"""A run's test result in its own folder, where TensorBoard's HParams table shows it beside the settings."""

import os
from pathlib import Path

import numpy as np

from metalab.core.statistics import mean_ci95
from metalab.tracking.tensorboard_events import Events


def write_test_result(run: Path, accuracy: np.ndarray, step: int) -> None:
    """Write test/accuracy and test/ci95, fractions; nothing where the folder cannot be written.

    Args:
        run: the folder of the run that was evaluated.
        accuracy: [E] of each test episode.
        step: of the checkpoint.
    """
    if not os.access(run, os.W_OK):
        return
    events = Events(run)
    for name, value in zip(("accuracy", "ci95"), mean_ci95(accuracy), strict=True):
        events.write(lambda writer, name=name, value=value: writer.add_scalar(f"test/{name}", value, step))
    events.close()
