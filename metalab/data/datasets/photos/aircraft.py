"""FGVC-Aircraft (Maji et al., 2013): 100 variants of aircraft, 100 photographs each, Meta-Dataset's split and crop."""

from pathlib import Path

from metalab.core.errors import UserError
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.archives import Files, found
from metalab.data.formats.class_folder_archive import layout, opened
from metalab.data.formats.download import Published
from metalab.data.formats.layouts import Layout

FOLDER = "fgvc-aircraft-2013b"
Box = tuple[int, int, int, int]


def photographs(root: Path) -> Layout | None:
    """Recognise the official archive or its unpacked folder; each image is cropped to the aircraft's published box."""
    files = found(root, FOLDER, (f"{FOLDER}.tar.gz",))
    if files is None or "data/images_box.txt" not in files.names:
        return None
    try:
        boxes = {key: _box(rest) for key, rest in _lines(files, "data/images_box.txt")}
        kinds = [line for part in ("trainval", "test") for line in _lines(files, f"data/images_variant_{part}.txt")]
        images: dict[str, list[str]] = {}
        for key, variant in sorted(kinds, key=lambda line: line[1]):
            images.setdefault(variant, []).append(f"data/images/{key}.jpg")
        found_boxes = {name: boxes[Path(name).stem] for names in images.values() for name in names}
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{files.where}: its lists of variants and boxes do not fit ({error}). Fetch it anew."
        ) from error
    return layout(files, images, lambda name: opened(files, name).crop(found_boxes[name]))


def _lines(files: Files, name: str) -> list[tuple[str, str]]:
    """Return the lines of a list as the image's number and the rest."""
    lines = [line.partition(" ") for line in files.read(name).decode().splitlines() if line.strip()]
    return [(key, rest.strip()) for key, _, rest in lines]


def _box(text: str) -> Box:
    """Return left, upper, right, lower as Pillow counts them, from xmin ymin xmax ymax, 1 being the first pixel."""
    left, upper, right, lower = map(int, text.split())
    return left - 1, upper - 1, right, lower


BENCHMARK = PublishedDataset(
    title="FGVC-Aircraft",
    option="aircraft",
    protocol="metadataset",
    prefix="aircraft",
    splits=class_splits("aircraft_metadataset"),
    whose="its 100 variants",
    images=10_000,
    recognise=(photographs,),
    layouts=f"  {FOLDER}.tar.gz, the official archive, or its unpacked folder {FOLDER}/ with data/",
    downloads=(
        Published(
            f"{FOLDER}.tar.gz",
            (f"https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/{FOLDER}.tar.gz",),
            "md5:d4acdd33327262359767eeaa97a4f732",
        ),
    ),
)


class Aircraft(OfficialSplitDataset):
    """Serve FGVC-Aircraft as [3,size,size], 70/15/15 classes (Triantafillou et al., 2020)."""

    benchmark = BENCHMARK
