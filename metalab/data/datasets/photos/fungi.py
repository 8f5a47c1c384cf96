"""FGVCx Fungi (2018): 1394 kinds of fungi, photographed by the public in Denmark, Meta-Dataset's split."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from metalab.core.errors import UserError
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.image_decode import opened
from metalab.data.formats.layouts import Layout, SourceImage


def photographs(root: Path) -> Layout | None:
    """Recognise images/ beside train.json and val.json, whose categories are the classes: 0000.Name."""
    lists = [root / "train.json", root / "val.json"]
    if not all(path.is_file() for path in lists):
        return None
    images: dict[str, list[str]] = {}
    try:
        for path in lists:
            held = json.loads(path.read_text(encoding="utf-8"))
            names = {each["id"]: f"{each['id']:04d}.{each['name']}" for each in held["categories"]}
            files = {each["id"]: each["file_name"] for each in held["images"]}
            for each in held["annotations"]:
                images.setdefault(names[each["category_id"]], []).append(files[each["image_id"]])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not list categories, images and annotations ({error!r}). Fetch it anew."
        ) from error
    outside = [
        name for listed in images.values() for name in listed if Path(name).is_absolute() or ".." in Path(name).parts
    ]
    if outside:
        raise UserError(f"{path} names a file outside of data.root ('{outside[0]}'): it is not to be trusted.")
    missing = [name for listed in images.values() for name in listed if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"{root / missing[0]} is missing ({len(missing):,} such): unpack fungi_train_val.tgz into {root}."
        )

    def pictures() -> Iterator[SourceImage]:
        for name in sorted(images):
            for file in images[name]:
                yield SourceImage(name, name, file, partial(opened, root / file))

    every = [root / name for listed in images.values() for name in listed]
    return Layout("COCO lists", [*lists, *every], lambda: dict.fromkeys(images), pictures, len(every))


AT = "https://labs.gbif.org/fgvcx/2018/"
BENCHMARK = PublishedDataset(
    title="FGVCx Fungi",
    option="fungi",
    protocol="metadataset",
    prefix="fungi",
    splits=class_splits("fungi_metadataset"),
    whose="its 1394 kinds",
    images=89_760,
    recognise=(photographs,),
    layouts=f"  images/, train.json and val.json: {AT}fungi_train_val.tgz and {AT}train_val_annotations.tgz, unpacked",
    why="its terms have to be agreed to (github.com/visipedia/fgvcx_fungi_comp)",
)


class Fungi(OfficialSplitDataset):
    """Serve FGVCx Fungi as [3,size,size], 994/200/200 classes (Triantafillou et al., 2020)."""

    benchmark = BENCHMARK
