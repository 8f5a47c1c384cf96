"""What a run writes beside its checkpoints: an error of the disk becomes one message."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from metalab.core.errors import UserError


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn an error of the disk (full, read-only, taken away) while `path` is written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). What was saved before is kept: make room, or make "
            "the folder one that you may write to, and go on"
        ) from error
