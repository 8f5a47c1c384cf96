"""Omniglot (Lake et al., 2015): 1623 handwritten characters of 50 alphabets, each drawn by 20 people."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.datasets.drawings.omniglot_splits import CHALLENGE, MINIMAL, PROTOCOLS, alphabet, split_of
from metalab.data.formats import image_decode
from metalab.data.formats.download import fetch
from metalab.data.formats.file_tree import fingerprint, given_folder, tree, zip_members
from metalab.data.identity.class_ids import PUBLISHED
from metalab.data.sampling.class_families import build_families
from metalab.data.sampling.grouped import group_by_filename
from metalab.data.storage.store import NoSplit, Store, cache_folder, open_existing, open_or_build
from metalab.data.storage.writer import Record

ADDRESSES = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    "https://github.com/brendenlake/omniglot/raw/master/python/",
)
PARTS = {  # as published; of downloads only, a user's own copy may be packed otherwise
    "images_background": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "md5:6b91aef0f799c5bb55b94e3f2daec811",
    "images_background_small1": "md5:e704a628b5459e08445c13499850abc4",
    "images_background_small2": "md5:b75a71a51d3b13f821f212756fe481fd",
}
WHOLE = ("images_background", "images_evaluation")  # the two that make the 1623 characters


@dataclass(frozen=True)
class Omniglot:
    """Serve Omniglot as [1,size,size], ink 255 on 0, split by Vinyals et al. (2016) or at random."""

    root: str | None = None
    cache: str | None = None
    protocol: str = "vinyals"
    size: int = 28
    seed: int = 0
    within: Literal["alphabet"] | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UserError(
                f"data.protocol={self.protocol} is unknown. Type data.protocol=vinyals (rotations are classes of "
                "their own), random (1100/100/423 characters by data.seed), or background, small1 or small2 (what a "
                "net for data=omniglot_challenge may learn from)."
            )
        if not 1 <= self.size <= 105:
            raise UserError(f"data.size={self.size} is out of range: 1 to 105 pixels, 28 in most papers: data.size=28.")
        if self.seed >= 2**64:
            raise UserError(f"data.seed={self.seed} is out of range: below 2^64. Type data.seed=0.")

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with what to fetch, or what is missing from data.root.

        vinyals: each quarter turn of a character is a class; the four share the character's id and its images.
        random: each character is a class, and the sampler draws a turn for each class of each episode.
        background, small1, small2: each character is a class and stays upright.
        within: an episode's classes are of one alphabet. group: of the drawings' file names, which end in the drawer.
        """
        if self.protocol in CHALLENGE and split == "test":
            raise NoSplit(
                f"data.protocol={self.protocol} has no test split: its test is the one-shot challenge. Type "
                "metalab eval run=RUN data=omniglot_challenge."
            )
        served = group_by_filename(self._turned(self._store.split(split)), self.group)
        return (
            served
            if self.within is None
            else replace(served, families=build_families(served.names, "omniglot", alphabet))
        )

    def _turned(self, upright: Split) -> Split:
        if self.protocol != "vinyals":
            return replace(upright, random_turns=self.protocol == "random")
        characters = len(upright.ids)
        return replace(
            upright,
            first=upright.first.repeat_interleave(4),
            count=upright.count.repeat_interleave(4),
            ids=[name for name in upright.ids for _ in range(4)],
            names=[f"{name}/rot{90 * turn:03d}" for name in upright.names for turn in range(4)],
            turns=torch.arange(4).repeat(characters),
        )

    def characters(self) -> dict[str, str]:
        """Return each character's split ("Greek/character01": "train"), in the order of the splits."""
        return split_of(self.protocol, self.seed)

    @cached_property
    def _store(self) -> Store:
        by_seed = {"seed": self.seed} if self.protocol != "vinyals" else {}
        settings: dict[str, Any] = {"data": "omniglot", "protocol": self.protocol, "size": self.size, **by_seed}
        cache = cache_folder(self.cache)
        folder = cache / "-".join(["omniglot", self.protocol, str(self.size), *map(str, by_seed.values())])
        if self.root is not None:  # then only that is read: never a download, never what was made from elsewhere
            root = given_folder(self.root)
            parts = [self._part(root, name) for name in self._needed]
            files = [file for part in parts for file in ([part] if part.is_file() else tree(part))]
            source: Any = fingerprint(root, files)
        else:
            if store := open_existing(folder, settings):
                return store
            parts = [_download(cache / "downloads", name, self._needed) for name in self._needed]
            source = {name: PARTS[name] for name in self._needed}
        return open_or_build(folder, {**settings, "source": source}, lambda: self._records(parts))

    @property
    def _needed(self) -> tuple[str, ...]:
        if self.protocol in MINIMAL:
            return (f"images_background_{self.protocol}",)
        return WHOLE[:1] if self.protocol in CHALLENGE else WHOLE

    def _part(self, root: Path, name: str) -> Path:
        """Return the zip, or the unpacked folder, of this name in `root`; the large set holds the minimal ones."""
        names = [name, "images_background"] if self.protocol in MINIMAL else [name]
        for path in (path for name in names for path in (root / f"{name}.zip", root / name)):
            if path.exists():
                return path
        raise UserError(
            f"data.root={root} has neither {name}.zip nor a folder {name}/. data.protocol={self.protocol} is read from "
            f"the official {_zips(self._needed)}, or unpacked: fetch from {ADDRESSES[0]} into one folder and type "
            "data.root=/that/folder."
        )

    def _records(self, parts: list[Path]) -> Iterator[Record]:
        splits, known, found = self.characters(), split_of("vinyals", 0), set()
        for part in parts:
            for name, images in groupby(_images(part), key=lambda entry: "/".join(entry[0].split("/")[-3:-1])):
                if name not in known:
                    raise UserError(f"{part}: '{name}' is no character of Omniglot, as Greek/character01 is.")
                if name not in splits:
                    continue  # a minimal set, read from the whole one
                found.add(name)
                for file, raw in images:
                    image, image_id = inked(raw, self.size, part / file)
                    yield Record(image, f"omniglot:{name}", name, splits[name], file, image_id)
        if missing := sorted(splits.keys() - found):
            raise UserError(
                f"{' and '.join(map(str, parts))}: {len(missing)} of the {len(splits)} characters are missing, "
                f"{missing[0]} the first. Fetch the official {_zips(self._needed)} anew."
            )


def _zips(names: Iterable[str]) -> str:
    return " and ".join(f"{name}.zip" for name in names)


def _download(folder: Path, name: str, needed: Iterable[str]) -> Path:
    by_hand = f"By hand: fetch {_zips(needed)} from {ADDRESSES[0]} into one folder and type data.root=/that/folder."
    return fetch([f"{address}{name}.zip" for address in ADDRESSES], PARTS[name], folder / f"{name}.zip", by_hand)


def _images(part: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of every drawing, character by character."""
    if part.is_file():
        yield from zip_members(part, (".png",))
        return
    for path in tree(part):
        if path.suffix == ".png":
            yield path.relative_to(part.parent).as_posix(), path.read_bytes()


def inked(raw: bytes, size: int, where: Path) -> tuple[np.ndarray, str]:
    """Return uint8 [1,size,size], ink 255 on 0, every pixel the mean of the area it covers; and the image's id."""
    try:
        opened = image_decode.opened(io.BytesIO(raw))
        image = ImageOps.invert(opened.convert("L"))
    except (OSError, SyntaxError) as error:
        raise UserError(f"{where} cannot be read ({error}); the data set has to be whole. Fetch it again.") from error
    digest = image_decode.digest(opened, lambda: opened)  # far too small to be read otherwise
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))[None], f"{PUBLISHED}{digest[:16]}"
