"""MSCOCO (Lin et al., 2014): the objects of 80 kinds, each cut out of its photograph, Meta-Dataset's split."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from metalab.core.errors import UserError
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.image_decode import opened
from metalab.data.formats.layouts import Layout, SourceImage

LIST = "instances_train2017.json"
PHOTOGRAPHS = "train2017"
LARGER = 1.2  # a box grows by this about its centre
Box = tuple[int, int, int, int]  # left, upper, right and lower edge, pixels


def objects(root: Path) -> Layout | None:
    """Recognise train2017/ beside instances_train2017.json, which may stand in annotations/."""
    lists = next((path for path in (root / LIST, root / "annotations" / LIST) if path.is_file()), None)
    if lists is None or not (root / PHOTOGRAPHS).is_dir():
        return None
    found = _boxes(lists)
    files = sorted({name for own in found.values() for name, _ in own})
    missing = [name for name in files if not (root / PHOTOGRAPHS / name).is_file()]
    if missing:
        raise UserError(f"{root / PHOTOGRAPHS / missing[0]} is missing ({len(missing):,} such): unpack train2017.zip.")

    def pictures() -> Iterator[SourceImage]:
        for name in sorted(found):
            for file, box in found[name]:
                place = f"{PHOTOGRAPHS}/{file}"
                cut = partial(_cut, root / place, box)
                yield SourceImage(name, name, f"{place}#{','.join(map(str, box))}", cut)

    every = [lists, *(root / PHOTOGRAPHS / name for name in files)]
    return Layout("COCO lists", every, lambda: dict.fromkeys(found), pictures, sum(map(len, found.values())))


def _boxes(path: Path) -> dict[str, list[tuple[str, Box]]]:
    """Return the file and the box of each object of each kind; UserError where the list is not sound."""
    found: dict[str, list[tuple[str, Box]]] = {}
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kinds = {each["id"]: str(each["name"]) for each in held["categories"]}
        sizes = {each["id"]: (str(each["file_name"]), each["width"], each["height"]) for each in held["images"]}
        for each in held["annotations"]:
            file, width, height = sizes[each["image_id"]]
            if Path(file).name != file:
                raise UserError(f"{path} names a file outside of {PHOTOGRAPHS}/ ('{file}'): it is not to be trusted.")
            left, upper, right, lower = box = larger(each["bbox"], width, height)
            if left < right and upper < lower:
                found.setdefault(kinds[each["category_id"]], []).append((file, box))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(
            f"{path} does not list categories, images and annotations ({error!r}). Fetch it anew."
        ) from error
    return found


def larger(box: Sequence[float], width: int, height: int) -> Box:
    """Return the pixels of a box that has grown about its centre, within its photograph, as Meta-Dataset cuts them.

    Args:
        box: its left and upper edge, where the middle of the first pixel is 0.5, its width and its height.
        width: of the photograph.
        height: of the photograph.
    """
    x, y, w, h = map(float, box)
    x, y, w, h = x - w * (LARGER - 1) / 2, y - h * (LARGER - 1) / 2, w * LARGER, h * LARGER
    left, upper = max(round(x - 0.5), 0), max(round(y - 0.5), 0)
    return left, upper, min(round(x + w - 0.5) + 1, width), min(round(y + h - 0.5) + 1, height)


def _cut(path: Path, box: Box) -> Image.Image:
    return opened(path).crop(box)


AT = "http://images.cocodataset.org/"
BENCHMARK = PublishedDataset(
    title="MSCOCO",
    option="mscoco",
    protocol="metadataset",
    prefix="mscoco",
    splits=class_splits("mscoco_metadataset"),
    whose="its 80 kinds of objects",
    images=860_001,
    recognise=(objects,),
    layouts=(
        f"  train2017/ and {LIST}: {AT}zips/train2017.zip and {AT}annotations/annotations_trainval2017.zip, unpacked"
    ),
    why="its 18 GB are fetched by hand",
)


class MSCOCO(OfficialSplitDataset):
    """Serve the objects of MSCOCO as [3,size,size], 0/40/40 classes (Triantafillou et al., 2020)."""

    benchmark = BENCHMARK
