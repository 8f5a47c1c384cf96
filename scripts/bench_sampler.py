"""Time episodes a second of metalab's sampler beside learn2learn's Taskset: python scripts/bench_sampler.py.

One run measures both, in turn, on the same random images: in memory (on the device, where it is a GPU) and
memory-mapped on a disk whose cache is emptied before each repetition, as where the images are larger than memory.
Every method ends with float images on the device. learn2learn's images are handed to it as tensors, its quickest way.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalab.config.paths import typed
from metalab.core.allocator import keep_freed_memory
from metalab.core.errors import UserError
from metalab.core.interfaces import EpisodeSource, Split
from metalab.core.learn2learn_import import learn2learn as l2l
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.prefetch import Prefetcher


class Plain(torch.utils.data.Dataset):
    """One image and its label at a time, as learn2learn's data sets give them."""

    def __init__(self, images: Tensor, each: int) -> None:
        self.images, self.each = images, each

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i].float() / 255, i // self.each


class Case(NamedTuple):
    """What is measured."""

    name: str
    make: Callable[[Tensor], Callable[[int], object]]  # images -> step -> a meta-batch
    tasks: int  # episodes a call
    mapped: bool


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=64)
    parser.add_argument("--images", type=int, default=600, help="a class")
    parser.add_argument("--size", type=int, default=84, help="pixels, height and width")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--query", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=4, help="episodes a meta-batch")
    parser.add_argument("--workers", type=int, default=2, help="threads that read ahead from the disk")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="a repetition")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--folder", type=typed, help="on a disk, for the images; default: the folder for temporary files"
    )
    parser.add_argument("--json", type=typed, help="also write the numbers to this file")
    parser.add_argument("--smoke", action="store_true", help="tiny and quick: shows that it runs, measures nothing")
    given = parser.parse_args(argv)
    if given.smoke:
        given.classes, given.images, given.size, given.seconds, given.repeats = 8, 20, 8, 0.02, 2
    return given


def cases(given: argparse.Namespace) -> list[Case]:
    """Return the four methods."""
    device = torch.device(given.device)
    keep_freed_memory(device.type)  # for both
    counts = torch.full((given.classes,), given.images)

    def ours(images: Tensor) -> EpisodeSampler:
        names = [str(k) for k in range(given.classes)]
        split = Split(images, counts.cumsum(0) - counts, counts, names, names)
        return EpisodeSampler(split, given.way, given.shot, given.query, given.tasks, 0, "train", device)

    def ahead(images: Tensor) -> EpisodeSource:
        return Prefetcher(ours(images), given.workers)

    def theirs(images: Tensor) -> Callable[[int], object]:
        labels = {k: list(range(k * given.images, (k + 1) * given.images)) for k in range(given.classes)}
        of = {i: i // given.images for i in range(len(images))}
        data = l2l.data.MetaDataset(Plain(images, given.images), labels_to_indices=labels, indices_to_labels=of)
        shots = given.shot + given.query
        transforms = [
            l2l.data.transforms.FusedNWaysKShots(data, n=given.way, k=shots),
            l2l.data.transforms.LoadData(data),
            l2l.data.transforms.RemapLabels(data),
            l2l.data.transforms.ConsecutiveLabels(data),
        ]
        tasks = l2l.data.Taskset(data, transforms)
        return lambda step: [t.to(device) for t in tasks.sample()]

    resident = "on the GPU" if device.type == "cuda" else "in memory"
    return [
        Case(f"metalab, images {resident}", ours, given.tasks, False),
        Case("learn2learn, images in memory", theirs, 1, False),
        Case(f"metalab, mapped, {given.workers} threads", ahead, given.tasks, True),
        Case("learn2learn, mapped", theirs, 1, True),
    ]


@contextmanager
def written(given: argparse.Namespace) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Write random images to a file that is removed afterwards; yield its path and the images' shape."""
    shape = (given.classes * given.images, given.channels, given.size, given.size)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "images.uint8"
        draw = np.random.default_rng(0)
        with path.open("wb") as file:
            for _ in range(given.classes):
                file.write(draw.integers(0, 256, (given.images, *shape[1:]), dtype=np.uint8).tobytes())
            file.flush()
            os.fsync(file.fileno())
        yield path, shape


def forget(path: Path) -> None:
    """Ask the system to drop the file from its cache; it must not be mapped."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(case: Case, images: Tensor, seconds: float, device: str) -> float:
    """Return episodes a second over so many seconds, the first call not counted."""
    source = case.make(images)
    source(0)
    step, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or not step:
        step += 1
        source(step)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return step * case.tasks / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    """Measure in turn, print medians with quartiles and the two ratios, and return all rates."""
    given = arguments(argv)
    rates: dict[str, list[float]] = {}
    measured = cases(given)
    with written(given) as (path, shape):
        whole = torch.from_numpy(np.fromfile(path, np.uint8).reshape(shape))
        for _ in range(given.repeats):
            for case in measured:
                if case.mapped:
                    forget(path)
                images = torch.from_numpy(np.memmap(path, np.uint8, "c", shape=shape)) if case.mapped else whole
                rates.setdefault(case.name, []).append(rate(case, images, given.seconds, given.device))
                del images
    middles = {name: statistics.median(values) for name, values in rates.items()}
    size = f"{shape[0]:,} images of {given.channels}x{given.size}x{given.size}, {np.prod(shape) / 1e6:,.0f} MB"
    print(f"{size}; {given.way}-way {given.shot}-shot, {given.query} queries a class")
    print(
        f"{given.device}, {torch.get_num_threads()} threads; median of {given.repeats} (quartiles), episodes a second"
    )
    for name, values in rates.items():
        low, _, high = statistics.quantiles(values, n=4)
        print(f"{name:38} {middles[name]:12,.1f}  ({low:,.1f} to {high:,.1f})")
    fast, slow, mapped, slow_mapped = middles.values()
    print(f"in memory {fast / slow:.1f} x learn2learn, mapped {mapped / slow_mapped:.1f} x")
    if given.json:
        given.json.write_text(json.dumps({"settings": {k: str(v) for k, v in vars(given).items()}, "rates": rates}))
    return rates


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench_sampler: {error}")
