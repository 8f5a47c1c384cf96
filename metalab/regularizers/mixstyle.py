"""MixStyle: Zhou, Yang, Qiao, Xiang 2021: images take on the style of others, without a target domain."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.regularizers.base import Hooks
from metalab.regularizers.mixup import beta_numbers

At = Literal["images", "block1"]
EPS = 1e-6  # beside each variance, as in the paper's code


@dataclass(frozen=True)
class MixStyle:
    """Mix each image's channel means and deviations with those of another one of its pass, in training (sec. 2.2).

    at: block1, the maps behind the first block of the backbone (the paper: behind the first residual blocks), or
    images, the normalized images themselves, which is not the paper's. p: share of passes that are mixed. alpha: of
    Beta(alpha, alpha), of which each image has a number of its own. The other image is drawn from all of the pass, a
    support or queries, as where the domains of images are not known.
    """

    alpha: float
    p: float
    at: At

    def __post_init__(self) -> None:
        check_positive("reg.mixstyle.alpha", self.alpha)
        if not 0 <= self.p <= 1:
            raise UserError(f"reg.mixstyle.p={self.p:g}: expected a share, 0 to 1")

    def hooks(self) -> Hooks:
        def mix(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return mix_styles(out, self.alpha, self.p) if module.training else out

        def attach(net: nn.Module) -> None:
            where = net.get_submodule("normalize") if self.at == "images" else first_block(net.get_submodule("body"))
            where.register_forward_hook(mix)

        return Hooks(attach=attach, draws=True) if self.p else Hooks()


def first_block(body: nn.Module) -> nn.Module:
    """Return the first of a body's modules that is made of others: a block of conv4 or resnet12, layer1 of resnet18.

    Raises:
        UserError: where the body is no sequence of blocks of maps.
    """
    blocks = [m for m in body.children() if list(m.children())] if isinstance(body, nn.Sequential) else []
    if not blocks:
        raise UserError(
            "reg.mixstyle.at=block1 works behind the first block of conv4, resnet12 and resnet18, and this backbone is "
            "no sequence of blocks: type reg.mixstyle.at=images, or another backbone"
        )
    return blocks[0]


def mix_styles(x: Tensor, alpha: float, p: float) -> Tensor:
    """Return maps [N,C,H,W] with mixed styles, or, in a share 1 - p of calls, as they are."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    drawn = exact.detach()[:, 0, 0, 0]
    order = torch.rand_like(drawn).argsort()
    mixed = with_styles_of(exact, order, beta_numbers(alpha, drawn))
    return torch.where(torch.rand_like(drawn[0]) < p, mixed, exact).to(x.dtype)


def with_styles_of(x: Tensor, order: Tensor, share: Tensor) -> Tensor:
    """Return x [N,C,H,W], of each image only `share` [N] of its own style and the rest of image order [N]."""
    variance, mean = torch.var_mean(x.detach(), dim=(2, 3), keepdim=True)  # constants, as in the paper
    deviation = (variance + EPS).sqrt()
    own = share[:, None, None, None]
    scale, shift = (own * each + (1 - own) * each[order] for each in (deviation, mean))
    return (x - mean) / deviation * scale + shift
