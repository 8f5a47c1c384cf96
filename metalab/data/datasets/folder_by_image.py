"""data.protocol=images of a folder: all classes in each split, and each image in one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from metalab.core.errors import UserError
from metalab.core.text import first_names
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.folder_part import Part
from metalab.data.formats.class_tree import ALL
from metalab.data.identity.class_ids import NAMED, refuse_twins
from metalab.data.sampling.grouped import filename_groups
from metalab.data.sampling.stratified import belonging_together, stratified_folds, stratified_parts


class Images(NamedTuple):
    """Images that are dealt out to splits."""

    names: list[str]  # [K] of classes
    classes: np.ndarray  # int64 [N]
    groups: np.ndarray  # int64 [N], what stays together: copies of one image, and what data.group finds

    def some(self, index: np.ndarray) -> "Images":
        return Images(self.names, self.classes[index], np.unique(self.groups[index], return_inverse=True)[1])


@dataclass(frozen=True)
class ImageSplit:
    """How the images of each class are split where no folder says it: settings of data=folder."""

    ratios: Sequence[float]
    seed: int
    least: int
    group: str | None
    folds: int | None
    fold: int
    key: str = "data.folds"  # what people typed for the folds

    def __post_init__(self) -> None:
        if self.folds is None and self.fold:
            raise UserError(f"data.fold={self.fold}: there are no folds; type data.folds=5, or leave it out")
        if self.folds is not None and self.folds < 2:
            raise UserError(f"data.folds={self.folds}: expected 2 or more, or null for none; type data.folds=5")
        if self.folds is not None and not 0 <= self.fold < self.folds:
            raise UserError(f"data.fold={self.fold}: expected 0 to {self.folds - 1}, one of data.folds={self.folds}")

    def parts(self, homes: Mapping[str, Part]) -> dict[str, Part]:
        """Return train, val and test of the folders there are: all three, train/ and test/, or one for all.

        A split whose share is 0 has no class. Raises UserError, naming them, for classes with too few images.
        """
        self._refuse_folders(homes)
        refuse_twins({home: (part.ids, part.names) for home, part in homes.items()})
        homes = _large(homes, self.least)
        _refuse_one_class(homes, self.least)
        if ALL in homes:
            parts = _cut(homes[ALL], self._split(self._images(homes[ALL])))
        elif "val" in homes:
            parts = dict(homes)
        else:
            train = homes["train"]
            held_out = self._dealt_out(self._images(train), [*self.ratios[:2], 0])
            parts = {**_cut(train, held_out), "test": homes["test"]}
        self._refuse_absent(parts)
        self._refuse_torn(parts)
        return parts

    def in_folds(self, homes: Mapping[str, Part]) -> tuple[Part, np.ndarray]:
        """Return the images of all folds, and the fold in which each is tested; nothing is held out for validation.

        Args:
            homes: as of `parts`.

        Returns:
            The images. And int64 [N], 0..folds-1.

        Raises:
            UserError: for classes with too few images, and where folders say what is tested.
        """
        self._refuse_folders(homes)
        refuse_twins({home: (part.ids, part.names) for home, part in homes.items()})
        part = _large(homes, self.least)[ALL]
        whole = _chosen(part, np.ones(len(part.files), dtype=bool))
        _refuse_one_class({ALL: whole}, self.least)
        images = self._images(whole)
        return whole, self._folds(images, self.folds or 0, "one for each fold")

    def _images(self, part: Part) -> Images:
        together = [np.array(part.image_ids)]
        if self.group is not None:
            together.append(np.array(filename_groups(part.files, self.group)))
        return Images(part.names, np.repeat(np.arange(len(part.names)), part.count), belonging_together(*together))

    def _split(self, images: Images) -> np.ndarray:
        """Return the number of each image's split: by the ratios, or a fold for test and the rest by the ratios."""
        if self.folds is None:
            self._refuse_few(images, sum(share > 0 for share in self.ratios), "one for each split that is used", True)
            return self._dealt_out(images, self.ratios)
        needed, why = (4, "two for each fold") if self.folds == 2 else (self.folds, "one for each fold")
        fold = self._folds(images, needed, why)
        split, rest = np.full(len(fold), SPLITS.index("test")), np.flatnonzero(fold != self.fold)
        split[rest] = self._dealt_out(images.some(rest), [*self.ratios[:2], 0])
        return split

    def _folds(self, images: Images, needed: int, why: str) -> np.ndarray:
        """Return the fold of each image; UserError for classes of fewer than are needed, and for one without a fold."""
        self._refuse_few(images, needed, why, True)
        folds = self.folds or 0
        fold = stratified_folds(images.classes, images.groups, folds, self.seed)
        lacking = [
            f"{name} (fold {number})"
            for k, name in enumerate(images.names)
            for number in sorted(set(range(folds)) - set(fold[images.classes == k].tolist()))
        ]
        if lacking:
            raise UserError(
                f"{self.key}={folds}: classes have no image in a fold, for data.group={self.group} holds their "
                f"images together: {first_names(lacking)}. Type fewer folds"
            )
        return fold

    def _refuse_folders(self, homes: Mapping[str, Part]) -> None:
        """Raise UserError where folders say which images are tested, and folds would, too."""
        if self.folds is not None and ALL not in homes:
            raise UserError(
                f"{self.key}={self.folds} tests each image once, and {'/ and '.join(homes)}/ say which are tested: put "
                "all class folders into one folder, or leave out the folds"
            )

    def _dealt_out(self, images: Images, shares: Sequence[float]) -> np.ndarray:
        if not any(shares):
            shares = [1, 0, 0]
        used = [split for split, share in zip(SPLITS, shares, strict=True) if share]
        self._refuse_few(images, len(used), f"one for each of {', '.join(used)}")
        return stratified_parts(images.classes, images.groups, shares, self.seed)

    def _refuse_few(self, images: Images, needed: int, why: str, whole: bool = False) -> None:
        """Raise UserError for classes of fewer groups than are needed; whole: `images` are all that they have."""
        held = [len(np.unique(images.groups[images.classes == k])) for k in range(len(images.names))]
        few = [f"{name} ({n})" for name, n in zip(images.names, held, strict=True) if n < needed]
        if few:
            what = "images" if self.group is None else f"groups of images by data.group={self.group}"
            folds = "type fewer folds, or " if needed == self.folds else ""
            least = f" with data.least={needed}" if whole and self.group is None else ""
            raise UserError(
                f"{len(few)} classes have too few {what}: {first_names(few)}; {needed} are needed, {why}. Add images, "
                f"{'' if folds else 'or '}{folds}leave these classes out{least}"
            )

    def _refuse_absent(self, parts: Mapping[str, Part]) -> None:
        """Raise UserError where a split lacks a class that another one has, unless it has none at all."""
        names = dict.fromkeys(name for part in parts.values() for name in part.names)
        absent = [
            f"{name} ({s})" for s, part in parts.items() if part.names for name in names if name not in part.names
        ]
        if absent:
            together = f", or change data.group={self.group}, which holds them together" if self.group else ""
            raise UserError(
                "data.protocol=images has all classes in each split, and some have no image that can be used in one: "
                f"{first_names(absent)}. Add images there{together}"
            )

    def _refuse_torn(self, parts: Mapping[str, Part]) -> None:
        """Raise UserError where images of one group stand in two splits, as folders have them."""
        if self.group is None:
            return
        files = [(split, file) for split, part in parts.items() for file in part.files]
        homes: dict[int, dict[str, str]] = {}  # group -> split -> its first file
        for number, (split, file) in zip(filename_groups([f for _, f in files], self.group), files, strict=True):
            homes.setdefault(number, {}).setdefault(split, file)
        if torn := [" and ".join(found.values()) for found in homes.values() if len(found) > 1]:
            raise UserError(
                f"data.group={self.group}: {len(torn)} groups stand in two splits: {first_names(torn)}. Give each "
                "group to one of them, or put all class folders into one folder, to be split by data.ratios"
            )


def _refuse_one_class(homes: Mapping[str, Part], least: int) -> None:
    """Raise UserError where there are not two classes to tell apart."""
    for home, part in homes.items():
        if len(part.names) < 2:
            where = "" if home == ALL else f" in {home}/"
            raise UserError(
                f"{len(part.names)} classes have images that can be used{where}, and a classifier needs 2: add "
                f"images{f', or type less than data.least={least}' if least > 1 else ''}"
            )


def _large(homes: Mapping[str, Part], least: int) -> dict[str, Part]:
    """Return the folders without the classes that have fewer than `least` images in all of them together."""
    images: dict[str, int] = {}
    for part in homes.values():
        for name, count in zip(part.names, part.count, strict=True):
            images[name] = images.get(name, 0) + count
    small = [f"{name} ({count})" for name, count in images.items() if count < least]
    return {
        home: _chosen(part, np.repeat([images[name] >= least for name in part.names], part.count))._replace(small=small)
        for home, part in homes.items()
    }


def _cut(part: Part, split: np.ndarray) -> dict[str, Part]:
    """Return the part's images of each split, int64 [N]."""
    return {name: _chosen(part, split == number) for number, name in enumerate(SPLITS)}


def _chosen(part: Part, images: np.ndarray) -> Part:
    """Return the part with these of its images, bool [N], and the classes that have any, known by their names."""
    classes = np.repeat(np.arange(len(part.names)), part.count)
    counts = np.bincount(classes[images], minlength=len(part.names)).tolist()
    count = {name: n for name, n in zip(part.names, counts, strict=True) if n}
    index = np.flatnonzero(images).tolist()
    return part._replace(
        ids=[f"{NAMED}{name}" for name in count],
        names=list(count),
        count=list(count.values()),
        files=[part.files[i] for i in index],
        image_ids=[part.image_ids[i] for i in index],
        rows=[part.rows[i] for i in index],
    )
