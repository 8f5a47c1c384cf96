"""Pictures, tables and event files: what is made beside the numbers, and ends no run where it cannot be made."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

logger = logging.getLogger("metalab")


@contextmanager
def optional_output(what: str) -> Generator[None]:
    """Say in a warning that `what` could not be made, and why, where anything within goes wrong."""
    try:
        yield
    except Exception as error:  # of matplotlib, of TensorBoard, of the disk: the numbers are written already
        why = (str(error) or type(error).__name__).strip().splitlines()[0]
        logger.warning("%s could not be made (%s: %s); the numbers are kept", what, type(error).__name__, why)
        logger.debug("%s", what, exc_info=True)
