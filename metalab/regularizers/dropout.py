"""What is dropped behind the body, where every head and every metric reads the features."""

from dataclasses import dataclass

from torch import nn

from metalab.core.errors import UserError
from metalab.models.backbones import DropBlock as Block
from metalab.regularizers.base import Hooks


@dataclass(frozen=True)
class Dropout:
    """Drop single features (Srivastava et al. 2014)."""

    p: float

    def __post_init__(self) -> None:
        _share("reg.dropout", self.p)

    def hooks(self) -> Hooks:
        return Hooks(drop=nn.Dropout(self.p))


@dataclass(frozen=True)
class DropBlock:
    """Drop square blocks of the feature map (Ghiasi et al. 2018); single positions where the map is smaller."""

    p: float
    block: int

    def __post_init__(self) -> None:
        _share("reg.dropblock", self.p)
        if self.block < 1:
            raise UserError(f"reg.dropblock.block={self.block}: expected a side of 1 or more, as 5")

    def hooks(self) -> Hooks:
        return Hooks(drop=Block(self.p, self.block))


def _share(where: str, p: float) -> None:
    if not 0 <= p < 1:
        raise UserError(f"{where}.p={p}; a share from 0 up to but not including 1 is expected")
