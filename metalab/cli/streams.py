"""Standard output and error as they are given: closed, full, or of an encoding that lacks what is to be shown."""

import errno
import io
import logging
import os
import sys
from typing import NoReturn, TextIO

FULL = {errno.ENOSPC, vars(errno).get("EDQUOT", errno.ENOSPC)}  # of a disk


def tolerate_encodings() -> None:
    """Let both streams take every character, and be there: what an encoding lacks is escaped, as \\xb1 for ±."""
    sys.stdout, sys.stderr = _taking_all(sys.stdout), _taking_all(sys.stderr)


def log_in_utf8() -> None:
    """Write the log files that Hydra has opened in UTF-8, whatever the encoding of the place is."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def flush() -> None:
    """Flush standard output; leave with a message and exit code 1 where it takes nothing, as a full disk."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        sys.exit(141)
    except OSError as error:
        refused(error)


def refused(error: OSError) -> NoReturn:
    """Leave with a message and exit code 1 as the output cannot be written."""
    silence()
    sys.exit(f"metalab: the output cannot be written ({error.strerror})")


def silence() -> None:
    """Send what standard output still holds nowhere, else Python complains when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _taking_all(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed, as by >&-
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
