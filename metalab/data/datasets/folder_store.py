"""The images of a folder decoded into one store, whatever its splits are, and what was found on the way."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from metalab.core.errors import UserError
from metalab.core.interfaces import Interpolation
from metalab.core.text import first_names, printable
from metalab.data.formats.image_decode import PHOTOS, DecodedImage, decode, largest
from metalab.data.formats.label_table import LabelTable
from metalab.data.identity.class_ids import IMAGE, OWN
from metalab.data.storage.store import Record, Store, cache_folder, open_or_build

Classes = Mapping[str, Mapping[str, list[str]]]  # part of the store -> class name -> image files, relative to the root
Depth = Literal[8, 10, 12, 14, 16, "auto"]
DEPTHS = (8, 10, 12, 14, 16)
log = logging.getLogger("metalab.data")


class Reading(NamedTuple):
    """How image files become pixels."""

    size: int
    channels: int
    depth: Depth | None  # bits of 16-bit files that are used; None: 16, and the ids that older versions gave classes
    resize: int | None = None  # pixels of the shorter side before a centre crop; None: stretched to the square
    interpolation: Interpolation = "bicubic"

    def recipe(self) -> dict[str, Any]:
        """Return what a store is known by: without what older versions did not have, where it is what they did."""
        fields, later = self._asdict(), self._field_defaults
        return {key: value for key, value in fields.items() if key not in later or value != later[key]}


def folder_store(
    root: Path, classes: Classes, how: Reading, cache: str | None, skip: list[str], table: LabelTable | None = None
) -> Store:
    """Return the store of these images, what is skipped not among them; decode them on first use and after a change.

    table: what says which class each is of; None: its folder does.

    Its facts are: depth, the bits that 16-bit files were read as; deep, floats and halved, how many images are so;
    largest and largest_float, their values; unread, each file that cannot be read, and why; same, lists of files with
    one content.
    """
    real = Path(os.path.realpath(root))  # one store, however the path is spelled
    listing = [file for names in classes.values() for files in names.values() for file in files]
    key: dict[str, Any] = {"root": ascii(str(real)), **how.recipe(), "parts": list(classes), "skip": list(skip)}
    if table is not None:
        key |= {"labels": table.path, "only": table.only}
    folder = cache_folder(cache) / f"folder-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    facts: dict[str, Any] = {}
    recipe = {**key, "images": len(listing), "listing": _listing(real, listing)}
    if table is not None:  # else the names of the files say which class each is of
        recipe["classes"] = hashlib.sha256(repr(classes).encode()).hexdigest()
    return open_or_build(folder, recipe, lambda: _records(real, classes, how, facts), len(listing), facts)


def notes(facts: Mapping[str, Any], how: Reading) -> list[str]:
    """Return what a referee must know of the values of deep images: how they were read, what is lost."""
    said, depth = [], facts["depth"]
    if facts["deep"] and how.depth == "auto" and depth < 16:
        said.append(f"16-bit images are read as {depth} bits, for their values end at {facts['largest']:g}")
    elif facts["deep"] and facts["largest"] < 2 ** (depth - 2):
        said.append(
            f"16-bit images have values up to {facts['largest']:g} of {2**depth - 1}, which leaves "
            f"{_levels(facts['largest'] / (2**depth - 1))} of 256 grey levels; data.depth=auto keeps more"
        )
    if facts["floats"] and facts["largest_float"] < 0.25:
        said.append(
            f"images of floats have values up to {facts['largest_float']:.3g} of 1, which leaves "
            f"{_levels(facts['largest_float'])} of 256 grey levels"
        )
    if facts["halved"]:
        said.append(f"{facts['halved']} images of 16 bits a colour are read at the higher 8 of them")
    return said


def refuse_unread(facts: Mapping[str, Any]) -> None:
    """Raise UserError, naming them, where images cannot be read."""
    if unread := facts["unread"]:
        raise UserError(
            f"{len(unread)} images cannot be read and data.strict=true asks for all of them: "
            f"{first_names(_why(unread))}; mend or remove them, or type data.strict=false to leave them out"
        )


def _levels(share: float) -> int:
    return round(share * 255) + 1


def _why(unread: Mapping[str, str]) -> Iterable[str]:
    return (f"{file} ({why})" for file, why in unread.items())


def _listing(root: Path, files: list[str]) -> str:
    """Return a hash of the names, sizes and times of change of all images.

    Also of the time at which the system last saw the file change (ctime), which no program can set back.
    """
    listing = hashlib.sha256()
    for file in sorted(files):
        path = root / file
        stat = path.stat() if path.exists() else path.lstat()  # a link to nowhere is found unreadable later
        listing.update(f"{file!a} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
    return listing.hexdigest()


def _records(root: Path, classes: Classes, how: Reading, facts: dict[str, Any]) -> Iterator[Record]:
    """Decode the images class by class; fill in the facts on the way."""
    files: dict[str, list[str]] = {}  # exact digest of an image -> its files
    facts |= {"deep": 0, "floats": 0, "halved": 0, "largest": 0.0, "largest_float": 0.0, "unread": {}}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        depth = facts["depth"] = _depth(root, classes, how, pool)
        for part, names in classes.items():
            for name, listed in names.items():
                pictures: dict[str, DecodedImage] = {}
                tried = pool.map(partial(_try, root, how, depth), listed)
                for file, picture in zip(map(printable, listed), tried, strict=True):
                    if isinstance(picture, str):
                        facts["unread"][file] = picture
                    else:
                        pictures[file] = picture
                        files.setdefault(picture.exact, []).append(file)
                        _count(picture, facts)
                class_id = _class_id(pictures, how)
                for file, p in pictures.items():
                    yield Record(p.pixels, class_id, printable(name), part, file, _image_id(p))
    facts["same"] = [same for same in files.values() if len(same) > 1]
    if facts["unread"]:
        log.warning("%d images cannot be read: %s", len(facts["unread"]), first_names(_why(facts["unread"])))


def _depth(root: Path, classes: Classes, how: Reading, pool: ThreadPoolExecutor) -> int:
    """Return how many bits of 16-bit files are used; by the largest value of all, where that is asked for."""
    if how.depth != "auto":
        return how.depth or 16
    files = [root / file for names in classes.values() for listed in names.values() for file in listed]
    most = max(pool.map(largest, (file for file in files if file.suffix.lower() not in PHOTOS - {".jp2"})), default=0)
    return next(depth for depth in DEPTHS if most < 2**depth)


def _count(picture: DecodedImage, facts: dict[str, Any]) -> None:
    if picture.halved:
        facts["halved"] += 1
    elif picture.floats:
        facts["floats"] += 1
        facts["largest_float"] = max(facts["largest_float"], picture.largest)
    elif picture.deep:
        facts["deep"] += 1
        facts["largest"] = max(facts["largest"], picture.largest)


def _image_id(picture: DecodedImage) -> str:
    """Return the image's id; where 8 bits lose something it has two digests, and the second is of what they leave.

    Checkpoints of older versions carry the second alone.
    """
    before = picture.digest[:16]
    return f"{IMAGE}{picture.exact[:16]}+{before}" if picture.lossy else f"{IMAGE}{before}"


def _class_id(pictures: Mapping[str, DecodedImage], how: Reading) -> str:
    """Return the class's global id, a digest of its images: that of another folder only where it has the same ones."""
    exact = how.depth is not None
    each = sorted(picture.exact if exact and picture.lossy else picture.digest for picture in pictures.values())
    return OWN + hashlib.sha256("\n".join(each).encode()).hexdigest()[:20]


def _try(root: Path, how: Reading, depth: int, file: str) -> DecodedImage | str:
    """Return the decoded image, or in words why there is none."""
    path = root / file
    try:
        return decode(path, how.size, how.channels, depth, how.resize, how.interpolation)
    except UserError:
        raise  # a setting, and not the file, is wrong
    except Exception as error:  # Pillow's readers raise anything on a broken file; they are all named at the end
        return f"{type(error).__name__}: {error}".replace(str(path), path.name)
