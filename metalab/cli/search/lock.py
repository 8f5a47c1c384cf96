"""The lock of a folder in which a search runs: no second command writes there."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from metalab.core.errors import UserError

LOCK = ".search.lock"


class RefuseSearchedFolder(Callback):
    """Refuse a folder in which a search runs, before anything is written: in conf/train.yaml, hydra.callbacks."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if (folder / LOCK).is_file():
            try:
                with locked(folder):
                    pass
            except UserError as error:
                sys.exit(f"metalab: {error}")  # what is no SystemExit Hydra makes a warning of


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a search's folder; UserError where another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is being searched by another process: wait for it, or stop it") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
