"""Replay: images of earlier phases are trained on beside those of the current one."""

from dataclasses import dataclass
from typing import Literal

from metalab.core.errors import UserError
from metalab.regularizers.base import Hooks


@dataclass(frozen=True)
class Replay:
    """Draw a share of each mini-batch, or of the episodes, from a memory of earlier phases' images.

    images: how many the memory holds; None: all. how: herding (Rebuffi et al. 2017) or reservoir (Vitter 1985).
    memory: the file of the memory, which train.phases writes and names; None: there is none yet, and nothing is done.
    """

    images: int | None
    how: Literal["reservoir", "herding"]
    share: float
    memory: str | None

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise UserError(f"reg.replay.images={self.images}: expected 1 or more, or null for all images")
        if not 0 <= self.share < 1:
            raise UserError(f"reg.replay.share={self.share:g}: expected a share from 0 up to but not including 1")

    def hooks(self) -> Hooks:
        return Hooks(replay=self if self.share else None)
