"""Omniglot's one-shot challenge (Lake, Salakhutdinov, Tenenbaum, 2015): 20 runs of 20-way one-shot classification."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import FixedEpisodes, Split
from metalab.data.class_lists import class_list
from metalab.data.datasets.drawings.omniglot import ADDRESSES, inked
from metalab.data.formats.download import fetch
from metalab.data.formats.file_tree import fingerprint, given_folder, zip_members
from metalab.data.storage.store import NoSplit, Store, cache_folder, open_existing, open_or_build
from metalab.data.storage.writer import Record

RUNS = 20  # each of 20 characters of one alphabet, one drawer's for support and another's to be classified
PUBLISHED = {"people": 0.045, "BPL": 0.033}  # error rates, Lake et al. 2015, fig. 6A
CHECKSUM = "md5:e8996daecdf12afeeb4a53a179f06b19"


@dataclass(frozen=True)
class OmniglotChallenge:
    """Serve the 20 official runs as a test split of fixed episodes, [1,size,size], ink 255 on 0."""

    root: str | None = None
    cache: str | None = None
    size: int = 28

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 105:
            raise UserError(f"data.size={self.size} is out of range: 1 to 105 pixels, 28 in most papers: data.size=28.")

    def load(self, split: str) -> Split:
        """Return the runs as the test split; UserError for another one, or with what to fetch.

        Each class is one character of one run, with its training image first and its test image second. The two runs
        of an alphabet show the same characters, whose ids are Omniglot's own.
        """
        if split != "test":
            raise NoSplit(
                f"data=omniglot_challenge has no {split} split, only its 20 runs: metalab eval run=RUN "
                "data=omniglot_challenge. To learn for it type metalab train data=omniglot data.protocol=background, "
                "small1 or small2."
            )
        loaded = self._store.split("test")
        classes = torch.arange(len(loaded.ids)).view(RUNS, -1)
        runs = [loaded.names[i].partition("/")[0] for i in classes[:, 0].tolist()]
        return replace(loaded, fixed=FixedEpisodes(classes, 1, 1, runs, PUBLISHED))

    @cached_property
    def _store(self) -> Store:
        settings: dict[str, Any] = {"data": "omniglot_challenge", "size": self.size}
        cache = cache_folder(self.cache)
        folder = cache / f"omniglot_challenge-{self.size}"
        by_hand = (
            f"all_runs.zip is read from {ADDRESSES[0]}one-shot-classification/: fetch it into a folder and type "
            "data.root=/that/folder."
        )
        if self.root is not None:
            path = given_folder(self.root) / "all_runs.zip"
            if not path.is_file():
                raise UserError(f"data.root={self.root} has no all_runs.zip. {by_hand}")
            source: Any = fingerprint(path.parent, [path])
        else:
            if store := open_existing(folder, settings):
                return store
            urls = [f"{address}one-shot-classification/all_runs.zip" for address in ADDRESSES]
            path, source = fetch(urls, CHECKSUM, cache / "downloads" / "all_runs.zip", by_hand), CHECKSUM
        return open_or_build(folder, {**settings, "source": source}, lambda: self._records(path))

    def _records(self, path: Path) -> Iterator[Record]:
        held = dict(zip_members(path, (".png", ".txt")))
        for line in class_list("omniglot_challenge"):  # "run01/class01 Atlantean/character05"
            where, character = line.split()
            run, _, label = where.partition("/")
            support = f"{run}/training/{label}.png"
            listed = held.get(f"{run}/class_labels.txt", b"").decode().split("\n")
            queries = [item.split()[0] for item in listed if item.split()[1:] == [support]]
            files = [support, *queries]
            if len(queries) != 1 or not all(file in held for file in files):
                raise UserError(
                    f"{path}: {support} and its one test image in {run}/class_labels.txt are expected. Fetch it anew."
                )
            for file in files:
                image, image_id = inked(held[file], self.size, path / file)
                yield Record(image, f"omniglot:{character}", f"{where}/{character}", "test", file, image_id)
