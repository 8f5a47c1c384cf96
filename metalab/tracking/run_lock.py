"""One process at a time writes a run's folder."""

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.distributed.processes import is_main
from metalab.tracking.provenance import now

logger = logging.getLogger("metalab")
LOCK, HOLDER = ".lock", ".holder.json"  # the system's lock dies with its process; the other file says whose it is


@contextmanager
def locked_run(out: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, made where it is missing, and say so where a dead process left it behind.

    Raise UserError, with the process and its host, where another one is writing there.
    """
    made = not out.exists()
    with disk_errors(out / LOCK):
        out.mkdir(parents=True, exist_ok=True)
        lock = _locked(out)
    try:
        with disk_errors(out / HOLDER):
            _take(out)
        yield
    finally:
        with suppress(OSError):  # of a folder that is gone, or may not be written any more
            (out / HOLDER).unlink(missing_ok=True)
            (out / LOCK).unlink(missing_ok=True)  # first: who opens it now finds that it is no file any more
        lock.release()
        if made:
            with suppress(OSError):  # it is not empty: something was written
                out.rmdir()


class RefuseBusyFolder(Callback):
    """Refuse a run's folder before Hydra writes its own files there: in conf/train.yaml, hydra.callbacks."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        if not is_main():
            return  # rank 0 of its training looks, and has the folder
        from metalab.tracking.run_folder import refuse_existing_run  # it loads torch

        out = Path(config.hydra.run.dir)
        try:
            refuse_busy(out)
            if config.get("resume") is None and config.get("run") is None:
                refuse_existing_run(out)
        except UserError as error:
            sys.exit(f"metalab: {error}")  # what is no SystemExit Hydra makes a warning of


def refuse_busy(out: Path) -> None:
    """Raise UserError, with the process and its host, where another process writes a run's folder."""
    if (out / LOCK).exists():
        _locked(out).release()


def is_locked(out: Path) -> bool:
    """Whether a process of this machine holds the lock of a run's folder."""
    try:
        refuse_busy(out)
    except (UserError, OSError):  # it may be another user's, whose file nobody else opens
        return True
    return False


def _locked(out: Path) -> FileLock:
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(_refusal(out)) from None
    return lock


def _take(out: Path) -> None:
    """Write down who holds the lock, and say where that was a process that ended without giving it back."""
    before = holder_of(out)
    if before is not None:
        logger.info(f"{out} was left by {_named(before)}, which is gone: its lock is taken over")
    this = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
    (out / HOLDER).write_text(json.dumps(this) + "\n", encoding="utf-8")


def _refusal(out: Path) -> str:
    holder = holder_of(out)
    who = _named(holder) if holder is not None else "another process"
    return (
        f"{out} is being written by {who}. Wait for it or stop it; to run another beside it, leave out resume= and "
        "give a folder of its own, as hydra.run.dir=outputs/train/another"
    )


def holder_of(out: Path) -> dict[str, Any] | None:
    """Return what the folder's holder wrote down; None where there is none, or it was cut short."""
    with suppress(OSError, ValueError):
        found = json.loads((out / HOLDER).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"
