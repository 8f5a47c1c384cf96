"""From the backbone's node to the net that is meta-learned."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Backbone, NotedBackbone, PretrainedBackbone, Split
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net


def build_body(backbone: Backbone, channels: int, size: int) -> tuple[nn.Module, int]:
    """Build the backbone's net for images [C,size,size]; return it and the length of its flattened features."""
    net = backbone.build(channels, size)
    with torch.no_grad():
        features = net.eval()(torch.zeros(2, channels, size, size)).flatten(1).shape[1]
    return net.train(), features


PartsFactory = Callable[[int], dict[str, nn.Module]]  # from the length of the flattened features


def build_net(
    backbone: Backbone,
    algorithm: Algorithm,
    drop: nn.Module,
    normalize: Normalize,
    size: int,
    more: PartsFactory | None = None,
) -> Net:
    """Build the net that is meta-learned.

    Args:
        backbone: makes its body.
        algorithm: makes its own parts, as the head.
        drop: what stands behind the body in training; an empty Sequential: nothing.
        normalize: of images in [0,1]; weights from elsewhere have one of their own, which is taken in its place.
        size: height and width of the images.
        more: makes what training has beside these, the regularizers' own parts; None: nothing.

    Returns:
        The net, with random weights.

    Raises:
        UserError: where backbone and images do not go together.
    """
    inside, features = build_body(backbone, normalize.mean.numel(), size)
    if isinstance(backbone, PretrainedBackbone) and (own := backbone.normalization()) is not None:
        normalize = own
    return Net(normalize, inside, drop, algorithm.parts(inside, features) | (more(features) if more else {}))


def refuse_larger(
    backbone: Backbone,
    algorithm: Algorithm,
    drop: nn.Module,
    sides: tuple[int, int],
    held: Mapping[str, Tensor],
    more: PartsFactory | None = None,
) -> None:
    """Raise UserError, before any memory is taken, where the settings make a net far larger than a checkpoint's.

    sides: channels and side of the images; held: the tensors of the checkpoint's net.
    """
    channels, size = sides
    has, asked = sum(each.numel() for each in held.values()), math.inf
    try:
        with torch.device("meta"):
            made = build_net(backbone, algorithm, drop, Normalize([0.0] * channels, [1.0] * channels), size, more)
        asked = sum(each.numel() for each in made.state_dict().values())
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if "overflow" not in str(error):  # else it has more bytes than can be counted
            return  # a body of the user's own that is not made without memory; what cannot be made is told next
    if asked > 10 * has + 10**8:
        raise UserError(
            f"the settings make a net of {asked:,} numbers, and the checkpoint's has {has:,}: they are not those of "
            "the run; leave out algo and backbone, and take the config.yaml that the run wrote"
        )


def load_pretrained(backbone: Backbone, net: Net) -> set[str]:
    """Give the body of a net the weights that its backbone names, if any.

    Returns:
        The global ids of the classes that the weights were trained on; none where there are no weights.

    Raises:
        UserError: where the weights cannot be had, do not fit, or nobody says what they were trained on.
    """
    if not isinstance(backbone, PretrainedBackbone):
        return set()
    ids = backbone.seen()
    backbone.load(net.body)
    return ids


def weights_note(backbone: Backbone) -> str:
    """Return what every result of a backbone's weights must say, as that nobody knows what they saw; empty: nothing."""
    return backbone.note() if isinstance(backbone, NotedBackbone) else ""


def image_shape(split: Split) -> tuple[int, int]:
    """Return channels and side of a split's images; nets here take square images."""
    channels, height, width = split.images.shape[1:]
    if height != width:
        raise UserError(f"the images are {height}x{width}; the backbones take square ones: give data.size one number")
    return channels, height


def normalization(images: Tensor, sample: int = 2000) -> Normalize:
    """Measure mean and deviation of each channel on evenly spaced training images, uint8 [N,C,H,W]."""
    chosen = images[:: max(1, len(images) // sample)].to(torch.float32) / 255
    std, mean = torch.std_mean(chosen, dim=(0, 2, 3))
    return Normalize(mean.tolist(), std.clamp(min=1e-3).tolist())
