"""Data sets of few classes, whose papers split images and not classes: which classes are train, val and test."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.base.image_split import classes_named, image_split
from metalab.data.datasets.base.published import PublishedDataset, check_size
from metalab.data.storage.store import NoSplit


def check_classes(classes: Sequence[int], seed: int, there: int) -> None:
    """Raise UserError unless `classes` are three numbers of classes, for train, val and test, that are there."""
    if len(classes) != 3 or min(classes) < 0 or not 0 < sum(classes) <= there:
        raise UserError(
            f"data.classes={list(classes)}: expected three numbers of classes, for train, val and test, of the {there} "
            f"there are; type data.classes=[0,0,{there}] to test on all of them, or data.classes=[4,3,3]"
        )
    if seed < 0:
        raise UserError(f"data.seed={seed}: expected 0 or more; type data.seed=0")


@dataclass(frozen=True)
class ClassSplitDataset:
    """Serve a data set as images [channels,size,size], its classes cut into splits; a subclass says which it is.

    classes: how many for train, val and test, in an order that `seed` draws; an image split of the paper is not kept.
    protocol=images keeps it instead: all classes in each split, validation images drawn by `seed` from the training's;
    `only` leaves out the images of all classes but those it names.
    """

    whole: ClassVar[PublishedDataset]

    root: str | None = None
    cache: str | None = None
    size: int = 28
    classes: list[int] = field(default_factory=lambda: [0, 0, 10])
    seed: int = 0
    protocol: Literal["classes", "images"] = "classes"
    only: list[int | str] | None = None

    def __post_init__(self) -> None:
        check_size(self.size, type(self).size)
        check_classes(self.classes, self.seed, len(self.whole.splits))
        if self.protocol == "images" and list(self.classes) != self._all:
            raise UserError(
                f"data.protocol=images has all classes in each split, and data.classes={list(self.classes)} splits "
                "them: type data.protocol=classes, or leave out data.classes"
            )

        if self.only is not None and self.protocol != "images":
            raise UserError(
                f"data.only={list(self.only)}: data.protocol=classes has data.classes to say how many there are: leave "
                "out data.only, or type data.protocol=images"
            )

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError where it has none, or with what is wrong with data.root."""
        if self.protocol == "images":
            whole = image_split(self._cut(self._all, 0, "test"), self.whole.tested, split, self.seed)
            return whole if self.only is None else classes_named(whole, list(map(str, self.only)))
        number = self.classes[SPLITS.index(split)]
        if not number:
            raise NoSplit(
                f"data.classes={list(self.classes)} leaves no class for {split}: type three numbers above 0 that add "
                f"up to {len(self.whole.splits)} or less, as data.classes=[4,3,3] task.way=3; or data.protocol=images "
                "algo=baseline for a plain classifier of all classes"
            )
        return self._cut(self.classes, self.seed, split)

    @property
    def _all(self) -> list[int]:
        return [0, 0, len(self.whole.splits)]

    def _cut(self, classes: Sequence[int], seed: int, split: str) -> Split:
        order = np.random.default_rng(seed).permutation(sorted(self.whole.splits)).tolist()
        homes = [name for name, count in zip(SPLITS, classes, strict=True) for _ in range(count)]
        unused = dict.fromkeys(order[len(homes) :], "unused")
        cut = replace(
            self.whole,
            splits={**dict(zip(order, homes, strict=False)), **unused},
            protocol="-".join(map(str, (*classes, seed))),
        )
        return cut.split(cut.store(self.root, self.cache, self.size), split)
