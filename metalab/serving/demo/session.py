"""A person's classes while a page is open: pictures come and go, and the classifier is made anew."""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from metalab.config.paths import given_path
from metalab.config.schema import Predict
from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.core.text import printable
from metalab.data.formats.class_tree import read_classes
from metalab.serving.demo.answer import Answer, answer
from metalab.serving.demo.pictures import Picture, read, support_of
from metalab.serving.images import SUPPORT
from metalab.serving.joint import refuse_one_by_one
from metalab.serving.loading import LoadedRun
from metalab.serving.practice import Practice, build_practice, practice_of

MOST, WHOLE = 100, 1000  # pictures that are taken at once, and in all
LONGEST = 60  # letters of a class's name


class Session:
    """Classes with their pictures, and what a run's net makes of them."""

    def __init__(self, run: LoadedRun, asked: Predict, seed: int, folder: Path) -> None:
        """Begin without classes; `folder` takes copies of the pictures."""
        self.run, self.asked, self.seed = run, asked, seed
        self.classes: dict[str, list[Picture]] = {}
        self._folder, self._number = folder, itertools.count()
        self._made: Practice | None = None

    def add_class(self, given: str) -> str:
        """Add a class without pictures, and return its name.

        Raises:
            UserError: for a name that is there already, or cannot be a folder's.
        """
        name = given.strip()
        if not name:
            raise UserError("Type the name of the class first")
        if (
            len(name) > LONGEST
            or not name.isprintable()
            or name.startswith(".")
            or any(c in name for c in '/\\:*?"<>|')
        ):
            raise UserError(
                f"A class's name is a folder's: at most {LONGEST} letters, no dot first, none of /\\:*?\"<>|"
            )
        if name.casefold() in map(str.casefold, self.classes):
            raise UserError(f"There is a class {name} already")
        self.classes[name] = []
        return name

    def add_images(self, name: str, files: Sequence[Path]) -> list[str]:
        """Add pictures to a class, and return in words what was left out.

        Raises:
            UserError: where there is no such class.
        """
        if name not in self.classes:
            raise UserError("Add a class first, and choose it")
        return self._add(name, files, MOST)

    def _add(self, name: str, files: Sequence[Path], most: int) -> list[str]:
        left = []
        room = min(most, WHOLE - sum(map(len, self.classes.values())))
        if len(files) > room:
            left.append(f"{len(files) - room} pictures are left out: {MOST} are taken at once, and {WHOLE} in all")
        for file, image in read(files[:room], self.run):
            if isinstance(image.pixels, str):
                left.append(f"{image.file} cannot be read and is left out ({image.pixels})")
                continue
            copy = self._folder / f"{next(self._number)}{file.suffix.lower()}"
            with disk_errors(copy):
                shutil.copyfile(file, copy)
            self.classes[name].append(Picture(image.file, copy, image.pixels, image.digest))
            self._made = None
        return left

    def remove_image(self, name: str, index: int) -> None:
        """Remove a class's picture; nothing happens where it is gone already."""
        if index < len(self.classes.get(name, [])):
            self.classes[name].pop(index).file.unlink(missing_ok=True)
            self._made = None

    def remove_class(self, name: str) -> None:
        """Remove a class with its pictures; nothing happens where it is gone already."""
        for picture in self.classes.pop(name, []):
            picture.file.unlink(missing_ok=True)
            self._made = None

    def set_reject(self, share: float | None) -> None:
        """Set the share of the classes' own images that may be lost to mark others; None: nothing is marked."""
        self.asked, self._made = replace(self.asked, reject=share), None

    def switch(self, run: LoadedRun) -> list[str]:
        """Go on with another run's net, which sees the same pictures; return in words which of them it cannot."""
        before, self.run, self._made = self.classes, run, None
        self.classes, left = {}, []
        for name, pictures in before.items():
            self.classes[name] = []
            for old, (_, image) in zip(pictures, read([each.file for each in pictures], run), strict=True):
                if isinstance(image.pixels, str):
                    left.append(f"{old.name} cannot be read and is left out ({image.pixels})")
                else:
                    self.classes[name].append(replace(old, pixels=image.pixels))
        return left

    def practice(self) -> Practice:
        """Return the classifier of the pictures, or, without any, that of the classes the run was trained on.

        Raises:
            UserError: where the pictures are too few, or the run takes another number of classes.
        """
        if self._made is None:
            self._made = self._build()
        return self._made

    def answer(self, file: Path) -> Answer:
        """Classify a picture.

        Raises:
            UserError: where it cannot be read, or there is no classifier yet.
        """
        [(_, image)] = read([file], self.run)
        if isinstance(image.pixels, str):
            raise UserError(f"{image.file} cannot be read ({image.pixels})")
        return answer(self.practice(), image.pixels)

    def save(self, given: str) -> Path:
        """Copy the pictures into a new folder, one folder a class, and return it.

        Raises:
            UserError: where there is nothing to save, or something is there.
        """
        folder = given_path(given, "folder", SUPPORT)
        if not any(self.classes.values()):
            raise UserError("There is no picture to save")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is there already and not empty: type another folder")
        with disk_errors(folder):
            for name, pictures in self.classes.items():
                (folder / name).mkdir(parents=True, exist_ok=True)
                for i, each in enumerate(pictures, 1):
                    file = folder / name / f"{Path(each.name).stem[:100]}{each.file.suffix}"
                    if file.exists():
                        file = file.with_stem(f"{file.stem}-{i}")
                    shutil.copyfile(each.file, file)
        return folder

    def load(self, given: str) -> list[str]:
        """Take the classes and pictures of a folder in the place of those there are; return what was left out.

        Raises:
            UserError: where there is no such folder, or no class in it.
        """
        root = given_path(given, "support", SUPPORT)
        if not root.is_dir():
            raise UserError(f"support={given}: there is no such folder; it has one folder a class, each with images")
        found, left = read_classes(root)
        if not found:
            raise UserError(f"support={given} has no class folder with images, as support/cat/1.jpg")
        for name in list(self.classes):
            self.remove_class(name)
        for name, files in found.items():
            known = printable(name)
            self.classes[known] = []
            left = [*left, *self._add(known, [root / file for file in files], WHOLE)]
        return left

    def _build(self) -> Practice:
        filled = {name: pictures for name, pictures in self.classes.items() if pictures}
        if filled:
            refuse_one_by_one(self.run.adaptation, self.run.algo_name, "the page classifies one picture at a time")
        if not filled:
            try:
                return build_practice(self.run, None, replace(self.asked, reject=None), self.seed)
            except UserError:
                raise UserError("Add two classes, and a picture or more of each") from None
        if len(filled) < 2:
            raise UserError(f"{next(iter(filled))} alone has pictures: give another class some, too")
        support = support_of(filled)
        torch.manual_seed(self.seed)
        try:
            return practice_of(self.run, support, self.asked, self.seed)
        except UserError as error:
            if self.asked.reject is None:
                raise
            torch.manual_seed(self.seed)
            made = practice_of(self.run, support, replace(self.asked, reject=None), self.seed)
            return replace(made, notes=[*made.notes, f"no picture is marked as none of these: {error}"])


def words_of(practice: Practice) -> str:
    """Say what is to be expected of a classifier, as a person reads it."""
    said = [] if practice.expected is None else [practice.expected.words]
    if practice.threshold is not None:
        others = (
            "" if practice.marked is None else f", and marks {100 * practice.marked:.0f} % of other classes' images"
        )
        said.append(f"None of these is set on {practice.threshold.source}{others}")
    return ".\n".join([*said, *practice.notes])
