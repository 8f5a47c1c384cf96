"""Data sets of few classes, whose papers split images and not classes: which classes are train, val and test."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metalab.data.benchmark import Benchmark
from metalab.data.sources import SPLITS
from metalab.errors import UserError
from metalab.interfaces import Split


def check_classes(classes: Sequence[int], seed: int, there: int) -> None:
    """Raise UserError unless `classes` are three numbers of classes, for train, val and test, that are there."""
    if len(classes) != 3 or min(classes) < 0 or not 0 < sum(classes) <= there:
        raise UserError(
            f"data.classes={list(classes)}: expected three numbers of classes, for train, val and test, of the {there} "
            f"there are; type data.classes=[0,0,{there}] to test on all of them, or data.classes=[4,3,3]"
        )
    if seed < 0:
        raise UserError(f"data.seed={seed}: expected 0 or more; type data.seed=0")


def load(
    whole: Benchmark, classes: Sequence[int], seed: int, root: str | None, cache: str | None, size: int, split: str
) -> Split:
    """Return the train, val or test classes of a data set whose classes `seed` orders; UserError where it has none."""
    number = classes[SPLITS.index(split)]
    if not number:
        raise UserError(
            f"data.classes={list(classes)} leaves no class for {split}: type three numbers above 0 that add up to "
            f"{len(whole.splits)} or less, as data.classes=[4,3,3] task.way=3"
        )
    order = np.random.default_rng(seed).permutation(sorted(whole.splits)).tolist()
    homes = [name for name, count in zip(SPLITS, classes, strict=True) for _ in range(count)]
    unused = dict.fromkeys(order[len(homes) :], "unused")
    cut = replace(
        whole,
        splits={**dict(zip(order, homes, strict=False)), **unused},
        protocol="-".join(map(str, (*classes, seed))),
    )
    return cut.split(cut.store(root, cache, size), split)
