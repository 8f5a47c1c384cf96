"""The embedded data set: hand-drawn-like characters made from the fonts that matplotlib ships."""

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.datasets.drawings.glyph_shapes import ALIKE, FACES, turned, upright
from metalab.data.storage.store import Record, cache_folder, open_or_build

DRAWING = 1  # raised whenever the code draws other images, so that older stores are rebuilt
RATIOS = {"train": 0.64, "val": 0.16, "test": 0.20}  # of the upright classes; whole scripts only
# What a drawer varies: degrees, shear, relative scale, shift as a share of the size, and the standard deviation of
# the elastic field as a share of the size. Chosen for a pixel nearest neighbour of 44-48 %, 5-way 1-shot.
ROTATE, SHEAR, SCALE, SHIFT, ELASTIC = 12.0, 0.2, 0.2, 0.06, 1.75 / 28


@final
@dataclass(frozen=True)
class Glyphs:
    """Give some 700 characters of 15 scripts as classes, whole scripts to train, val and test (64/16/20 %).

    A shape stands once: of letters that look alike (case twins, A in Latin, Greek and Cyrillic, but B and D, too) the
    first code point is the class and the others are left out, as are letters written with others under NFKD. Each
    image [1,size,size], ink 255 on 0, is drawn with another font, rotation, shear, scale, shift, elastic field and
    stroke. Train classes turned by 90, 180 and 270 degrees are train classes of their own, with the id of the
    upright one, where they resemble no class of any split. Raises UserError for settings out of range.
    """

    cache: str | None
    images: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        if not 2 <= self.images <= 1000:
            raise UserError(f"data.images={self.images}: expected 2 to 1000 images a class; type data.images=20")
        if not 14 <= self.size <= 84:
            raise UserError(f"data.size={self.size}: expected 14 to 84 pixels; type data.size=28")
        if self.seed < 0:
            raise UserError(f"data.seed={self.seed}: expected 0 or more; type data.seed=0")
        if self.seed >= 2**64:
            raise UserError(f"data.seed={self.seed}: expected less than 2^64; type data.seed=0")

    def load(self, split: str) -> Split:
        """Return the classes of train, val or test; draw them on first use, in seconds."""
        recipe = {
            "images": self.images,
            "size": self.size,
            "seed": self.seed,
            "look": [FACES, ALIKE, RATIOS, ROTATE, SHEAR, SCALE, SHIFT, ELASTIC],
            "fonts": version("matplotlib"),
            "rasteriser": version("pillow"),
            "letters": unicodedata.unidata_version,
            "drawing": DRAWING,
        }
        folder = cache_folder(self.cache) / f"glyphs-{self.size}-{self.images}-{self.seed}"
        return open_or_build(folder, recipe, self._records).split(split)

    def _records(self) -> Iterator[Record]:
        glyphs = upright()
        home = split_scripts([g.script for g in glyphs], self.seed)
        glyphs += turned([g for g in glyphs if home[g.script] == "train"], glyphs)
        generator = torch.Generator().manual_seed(self.seed)
        for split in RATIOS:
            for glyph in (g for g in glyphs if home[g.script] == split):
                mark = f"/rot{90 * glyph.turn:03d}" if glyph.turn else ""
                name = unicodedata.name(chr(glyph.code)) + mark
                for i, image in enumerate(draw(glyph.templates, self.images, self.size, generator)):
                    yield Record(image, f"glyphs:U+{glyph.code:04X}", name, split, f"U+{glyph.code:04X}{mark}/{i:03d}")


def split_scripts(scripts: list[str], seed: int) -> dict[str, str]:
    """Return the split of each script: the closest to RATIOS, counted in classes, of 2000 assignments by the seed."""
    names, counts = np.unique(scripts, return_counts=True)
    homes = np.random.default_rng(seed).choice(3, (2000, len(names)), p=list(RATIOS.values()))
    shares = np.stack([((homes == i) * counts).sum(1) for i in range(3)], 1) / counts.sum()
    best = np.abs(shares - list(RATIOS.values())).max(1).argmin()
    return {str(name): list(RATIOS)[home] for name, home in zip(names, homes[best], strict=True)}


def draw(templates: np.ndarray, count: int, size: int, generator: torch.Generator) -> np.ndarray:
    """Return `count` drawings uint8 [count,1,size,size] of one glyph, each with a font and distortions of its own."""

    def uniform(*shape: int) -> Tensor:  # -1..1
        return torch.rand(*shape, generator=generator) * 2 - 1

    ink = torch.from_numpy(templates).float().div(255)[:, None]
    ink = torch.stack([ink, F.max_pool2d(ink, 3, 1, 1)], 1)  # [fonts,2,1,S,S]: a bolder stroke would fill holes
    font, stroke = (torch.randint(n, (count,), generator=generator) for n in ink.shape[:2])
    angle, shear = uniform(count) * math.radians(ROTATE), uniform(count) * SHEAR
    scale, shift = 1 + uniform(count, 2) * SCALE, uniform(count, 2, 1) * 2 * SHIFT  # a grid is 2 wide
    cos, sin, one = angle.cos(), angle.sin(), torch.ones(count)
    rotation = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    shearing = torch.stack([one, shear, 0 * one, one], 1).view(-1, 2, 2)
    affine = torch.cat([rotation @ shearing / scale[:, None], shift], 2)
    field = torch.randn(count, 2, 4, 4, generator=generator) * 2 * ELASTIC
    field = F.interpolate(field, (size, size), mode="bicubic", align_corners=True).movedim(1, 3)
    grid = F.affine_grid(affine, [count, 1, size, size], align_corners=False) + field
    drawn = F.grid_sample(ink[font, stroke], grid, align_corners=False)
    return (drawn.clamp(0, 1) * 255).round().byte().numpy()
