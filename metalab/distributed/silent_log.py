"""The log of a process that writes nothing, as rank 0 of its training does."""

from collections.abc import Mapping
from typing import Any


class SilentLog:
    """Take what a Log takes, and do nothing with it."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write no numbers."""

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write no text."""

    def figure(self, tag: str, figure: Any, step: int) -> None:
        """Write no picture."""

    def hparams(self, params: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """Write no row."""

    def say(self, message: str) -> None:
        """Show no line."""
