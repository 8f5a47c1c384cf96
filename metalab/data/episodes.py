"""The episode sampler: class-indexed uint8 images -> batched episodes on the device."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from torch import Tensor

from metalab.errors import UserError
from metalab.interfaces import Batch, Episode, Fixed, Split

BLOCK_EPISODES = 256  # episodes whose indices are drawn at once: long enough that drawing costs nothing a step
BLOCK_NUMBERS = 2**20  # random numbers a block may take (8 MiB): shortens the block where classes are many or large


class Draw(NamedTuple):
    """What T episodes are made of; the way x shot support images come first, then the queries, each shuffled."""

    classes: Tensor  # int64 [T,way], class of each label
    image: Tensor  # int64 [T,way*(shot+query)], index into split.images
    label: Tensor  # int64 [T,way*(shot+query)], 0..way-1
    turn: Tensor  # int64 [T,way*(shot+query)], quarter turns, 0..3, counter-clockwise


@final
@dataclass
class Episodes:
    """Draw meta-batches of `tasks` episodes from a split; a pure function of (seed, stream, step).

    Episode number `step * tasks + t` does not depend on `tasks` or on the device, so an evaluation in batches of 4
    or of 8 sees the same episodes, and resuming needs no state. Each class of an episode is another class of the
    split; labels are the order of drawing; support and query share no image. Raises UserError when the split has
    fewer than `way` classes, a class with fewer than `shot + query` images, or turned images that are not square.
    """

    split: Split
    way: int
    shot: int
    query: int
    tasks: int
    seed: int
    stream: str  # "train", "val", "test": each has random numbers of its own; any other name stands for training, too
    device: torch.device
    _images: Tensor = field(init=False, repr=False)
    _table: Tensor | None = field(init=False, repr=False)  # int64 [4,H*W]; None: nothing is ever turned
    _block: tuple[int, Draw] | None = field(
        init=False, repr=False, default=None
    )  # its number, and the indices beside the images
    _size: int = field(init=False, repr=False)  # episodes a block

    def __post_init__(self) -> None:
        _check(self.split, self.way, self.shot, self.query, self.stream)
        per_episode = len(self.split.ids) + self.way * int(self.split.count.max())
        self._size = min(BLOCK_EPISODES, max(1, BLOCK_NUMBERS // per_episode))
        if self.split.fixed is not None:
            self._size = len(self.split.fixed.classes)
        self._images = resident(self.split.images, self.device)
        turned = self.split.random_turns or self.split.turns is not None
        self._table = _turn_table(self.split.images).to(self._images.device) if turned else None

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`: x float32 [T,N,C,H,W] in [0,1], y int64 [T,N], both on the device."""
        draw = self._draws(step)
        x = self._images[draw.image.flatten()]
        if self._table is not None:
            source = self._table[draw.turn.flatten()]  # [T*N,H*W]
            flat = x.flatten(2)
            x = flat.gather(2, source[:, None].expand_as(flat)).view_as(x)
        x = x.to(self.device).float().div_(255).unflatten(0, draw.image.shape)
        y = draw.label.to(self.device)
        none = x[:, :0]
        edge = self.way * self.shot
        return Episode(Batch(x[:, :edge], y[:, :edge], none), Batch(x[:, edge:], y[:, edge:], none))

    def indices(self, step: int) -> Draw:
        """Return the classes, images, labels and turns of meta-batch `step`, on the CPU."""
        return Draw(*(t.cpu() for t in self._draws(step)))

    def _draws(self, step: int) -> Draw:
        first, last = step * self.tasks, (step + 1) * self.tasks
        parts = []
        for number in range(first // self._size, (last - 1) // self._size + 1):
            start = number * self._size
            rows = slice(max(first - start, 0), last - start)
            parts.append([t[rows] for t in self._drawn(number)])
        return Draw(*(torch.cat(t) for t in zip(*parts, strict=True)))

    def _drawn(self, number: int) -> Draw:
        if self._block is None or self._block[0] != number:
            if self.split.fixed is not None:  # every block is all of them, over again
                self._block = number, Draw(*(t.to(self._images.device) for t in _given(self.split, self.split.fixed)))
                return self._block[1]
            digest = hashlib.blake2b(f"{self.seed}/{self.stream}/{number}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
            draw = _draw(self.split, self._size, self.way, self.shot, self.query, generator)
            self._block = number, Draw(*(t.to(self._images.device) for t in draw))
        return self._block[1]


def _draw(split: Split, episodes: int, way: int, shot: int, query: int, generator: torch.Generator) -> Draw:
    """Draw the indices of a block of episodes with tensor operations."""

    def numbers(*shape: int) -> Tensor:  # float64: two equal numbers, whose order nobody defines, do not happen
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    classes = numbers(episodes, len(split.ids)).topk(way).indices  # in random order, so labels are shuffled
    count = split.count[classes]
    keys = numbers(episodes, way, int(split.count.max()))
    keys.masked_fill_(torch.arange(keys.shape[2]) >= count[..., None], -1.0)
    image = split.first[classes][..., None] + keys.topk(shot + query).indices  # [T,way,shot+query]
    turn = torch.zeros_like(classes) if split.turns is None else split.turns[classes]
    if split.random_turns:
        turn = (turn + torch.randint(4, classes.shape, generator=generator)) % 4
    # Shuffled within the support and within the query: Reptile walks through the support in mini-batches.
    order = numbers(episodes, way * shot).argsort(1), numbers(episodes, way * query).argsort(1)
    parts = image[..., :shot].flatten(1), image[..., shot:].flatten(1)
    image = torch.cat([part.gather(1, o) for part, o in zip(parts, order, strict=True)], 1)
    label = torch.cat([order[0] // shot, order[1] // query], 1)
    return Draw(classes, image, label, turn.gather(1, label))


def _given(split: Split, fixed: Fixed) -> Draw:
    """Return the indices of the fixed episodes, in their order."""
    way = fixed.classes.shape[1]
    image = split.first[fixed.classes][..., None] + torch.arange(fixed.shot + fixed.query)
    label = torch.arange(way)[:, None].expand(way, fixed.shot + fixed.query)
    image, label = (
        torch.cat([t[..., : fixed.shot].flatten(-2), t[..., fixed.shot :].flatten(-2)], -1) for t in (image, label)
    )
    return Draw(fixed.classes, image, label.expand_as(image), torch.zeros_like(image))


def resident(images: Tensor, device: torch.device) -> Tensor:
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


def _check(split: Split, way: int, shot: int, query: int, stream: str) -> None:
    """Raise UserError when the split cannot give one episode of this size."""
    if split.fixed is not None:
        _check_fixed(split.fixed, way, shot, query)
        return
    classes = len(split.ids)
    name, key = (stream, "task.") if stream in ("val", "test") else ("train", "task.train_")
    if way > classes:
        raise UserError(
            f"way={way} but the {name} split has {classes} classes: type {key}way={classes} or less, or add classes"
        )
    smallest = int(split.count.argmin())
    images, needed = int(split.count[smallest]), shot + query
    if images >= needed:
        return
    if images > shot:
        advice = f"type {key}query={images - shot} or less"
    elif images > 1:
        advice = f"type a {key}shot and a {key}query that add up to {images} or less"
    else:
        advice = "one image cannot be both support and query"
    raise UserError(
        f"class {smallest} ({split.names[smallest]}) of the {name} split has {images} images, {shot}-shot with "
        f"{query} queries needs {needed}; {int((split.count < needed).sum())} of {classes} classes have too few: "
        f"{advice}, or add images to these classes, or leave the classes out"
    )


def _check_fixed(fixed: Fixed, way: int, shot: int, query: int) -> None:
    expected = (fixed.classes.shape[1], fixed.shot, fixed.query)
    if (way, shot, query) != expected:
        raise UserError(
            f"these episodes are given, {expected[0]}-way {expected[1]}-shot with {expected[2]} queries a class: type "
            f"task.way={expected[0]} task.shot={expected[1]} task.query={expected[2]}"
        )
