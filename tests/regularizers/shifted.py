"""MNIST's digits as a source with labels, and digits of another domain without: inverted, or USPS."""

import bz2
import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.core.interfaces import Split, UnlabelledImages

Domain = Literal["inverted", "usps"]


def shared() -> Path:
    return Path(os.environ["METALAB_SHARED_DATA"])


def mnist(part: str, most: int) -> tuple[Tensor, Tensor]:
    """Return the first images uint8 [N,1,14,14] and labels int64 [N] of a part, train or t10k."""
    folder = shared() / "mnist"
    pixels, labels = (
        gzip.decompress((folder / f"{part}-{kind}-ubyte.gz").read_bytes()) for kind in ("images-idx3", "labels-idx1")
    )
    images = torch.from_numpy(np.frombuffer(pixels, np.uint8, offset=16).copy()).view(-1, 1, 28, 28)[:most]
    return halved(images.float()), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).copy()).long()[:most]


def halved(grey: Tensor) -> Tensor:
    """Return images of 0..255 [N,1,28,28] as uint8 [N,1,14,14]: a quarter of the work."""
    return F.avg_pool2d(grey, 2).round().to(torch.uint8)


def usps() -> tuple[Tensor, Tensor]:
    """Return all 2007 test images of USPS, uint8 [N,1,14,14], and their labels."""
    lines = bz2.decompress((shared() / "usps" / "usps.t.bz2").read_bytes()).decode().splitlines()
    labels = torch.tensor([int(float(line.split()[0])) - 1 for line in lines])
    pixels = torch.zeros(len(lines), 256)
    for row, line in zip(pixels, lines, strict=True):
        for word in line.split()[1:]:
            place, value = word.split(":")
            row[int(place) - 1] = float(value)
    grey = 255 * (pixels.view(-1, 1, 16, 16) + 1) / 2
    return halved(F.interpolate(grey, size=(28, 28), mode="bilinear")), labels


def target(domain: Domain) -> tuple[Tensor, Tensor, Tensor]:
    """Return what training sees without labels, and other images with their labels."""
    if domain == "usps":
        images, labels = usps()
        return images[:1000], images[1000:], labels[1000:]
    seen, (images, labels) = mnist("train", 6000)[0][3000:], mnist("t10k", 1000)
    return 255 - seen, 255 - images, labels


@dataclass(frozen=True)
class Shifted:
    """3000 labelled training images of MNIST, 500 others for validation, and a target domain beside them."""

    domain: Domain

    def load(self, split: str) -> Split:
        images, labels = mnist("train", 6500)
        part = slice(0, 3000) if split == "train" else slice(6000, 6500)
        images, labels = images[part], labels[part]
        order, count = labels.argsort(stable=True), labels.bincount(minlength=10)
        names = [str(digit) for digit in range(10)]
        unlabelled = target(self.domain)[0] if split == "train" else None
        return Split(
            images=images[order],
            first=count.cumsum(0) - count,
            count=count,
            ids=[f"mnist:{name}" for name in names],
            names=names,
            by_image=True,
            target=None if unlabelled is None else UnlabelledImages(unlabelled, [""] * len(unlabelled), self.domain),
        )
