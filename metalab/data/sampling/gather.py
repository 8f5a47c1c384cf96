"""From indices to images: gathered where they live, turned, and made floats on the device."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.sampling.augment import Augment
from metalab.data.sampling.episode_indices import EpisodeIndices


@final
@dataclass
class ImageGather:
    """Give the images that a draw names; UserError where images that are to be turned are not square."""

    split: Split
    device: torch.device
    augment: Augment | None
    _images: Tensor = field(init=False, repr=False)
    _table: Tensor | None = field(init=False, repr=False)  # int64 [4,H*W]; None: nothing is ever turned
    _white: Tensor = field(init=False, repr=False)  # a tensor, as a GPU divides by a number only nearly

    def __post_init__(self) -> None:
        self._images = move_if_it_fits(self.split.images, self.device)
        self._white = torch.tensor(255.0, device=self.device)
        turned = self.split.random_turns or self.split.turns is not None
        self._table = _turn_table(self.split.images).to(self._images.device) if turned else None

    @property
    def home(self) -> torch.device:
        """Where the images are, and indices are best."""
        return self._images.device

    def __call__(self, draw: EpisodeIndices, numbers: Tensor) -> Tensor:
        """Return float32 [T,N,C,H,W] in [0,1] on the device, augmented by uniform numbers [T,N,7] if at all.

        Where the split holds features in the place of images, these as they are.
        """
        x = self._images.index_select(0, draw.image.flatten())  # whole images; [...] would go byte by byte
        if self._table is not None:
            source = self._table[draw.turn.flatten()]  # [T*N,H*W]
            flat = x.flatten(2)
            x = flat.gather(2, source[:, None].expand_as(flat)).view_as(x)
        whole = x.to(self.device).float()
        x = (whole.div_(self._white) if x.dtype == torch.uint8 else whole).unflatten(0, draw.image.shape)
        return x if self.augment is None else self.augment(x, numbers.to(self.device))


def move_if_it_fits(images: Tensor, device: torch.device) -> Tensor:
    """Move images to a GPU once where they take at most half of its free memory; leave them where they are else."""
    if device.type != "cuda":
        return images
    fits = images.numel() * images.element_size() <= torch.cuda.mem_get_info(device)[0] // 2
    return images.to(device) if fits else images


def _turn_table(images: Tensor) -> Tensor:
    """Return int64 [4,H*W], the pixel that each pixel of an image turned by 0, 90, 180, 270 degrees comes from."""
    height, width = images.shape[-2:]
    if height != width:
        raise UserError(
            f"quarter turns need square images, and these are {height} x {width} pixels (height x width): "
            "resize them to a square when the data set is made"
        )
    pixels = torch.arange(height * width).view(height, width)
    return torch.stack([torch.rot90(pixels, k).flatten() for k in range(4)])
