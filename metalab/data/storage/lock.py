"""One process at a time at work on a store."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("metalab.data")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock beside `folder`; say that another process holds it, and wait."""
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.info("Another process is preparing %s; waiting for it.", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
