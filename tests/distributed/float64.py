"""Trainings of a second in float64, in this process or in several.

As a program: python -m tests.distributed.float64 CASES FOLDER [DEVICE].
CASES is a file of JSON, {name: words}; each training is in FOLDER/name, and what refuses one in FOLDER/name.refused.
"""

import importlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.data.sampling.gather import ImageGather
from metalab.distributed import group
from metalab.distributed.device import own_device
from metalab.distributed.processes import is_main, several
from metalab.training import train
from tests.conftest import SMALL, TINY

SIZES = ("task.way=3", "task.train_way=3", "task.query=2", "train.steps=3", "train.val_every=3", "eval.batch=2")


class NoEvents:
    """Take what goes to TensorBoard, which takes longer than the training."""

    def __init__(self, *_: object) -> None: ...
    def write(self, add: object) -> None: ...
    def close(self) -> None: ...


@contextmanager
def float64() -> Iterator[None]:
    """Train in float64 meanwhile, without pictures."""
    given = ImageGather.__call__

    def gather(self: ImageGather, *args: Any) -> Tensor:
        return given(self, *args).double()

    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch.object(ImageGather, "__call__", gather),
            patch.object(train, "save_final_figures", lambda *_: None),
            patch.object(train, "RUNNING_IMAGES", 30),
            patch("metalab.tracking.run_logger.Events", NoEvents),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def train_all(cases: Mapping[str, list[str]], folder: Path) -> None:
    """Train each case in its folder; rank 0 writes down what refuses one."""
    logging.disable(logging.WARNING)
    try:
        _train_all(cases, folder)
    finally:
        logging.disable(logging.NOTSET)  # the tests that come later in this process read their log


def _train_all(cases: Mapping[str, list[str]], folder: Path) -> None:
    with float64(), initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        for name, words in cases.items():
            before = torch.get_rng_state()
            try:
                cfg = compose("train", [f"hydra.searchpath=[file://{TINY}]", *SMALL, *SIZES, *words])
                train.run(cfg, folder / name)
            except UserError as error:
                if is_main():
                    (folder / f"{name}.refused").write_text(str(error), encoding="utf-8")
            torch.set_rng_state(before)


if __name__ == "__main__":
    importlib.import_module("tests.conftest")
    torch.set_num_threads(1)
    device = own_device(sys.argv[3] if len(sys.argv) > 3 else "cpu")
    with group.joined(device) if several() else nullcontext():
        train_all(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
