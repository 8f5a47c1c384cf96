"""Stanford Cars (Krause et al., 2013): 196 models of cars, the split of Li et al. (2019, DN4)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from metalab.core.errors import UserError
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.image_decode import opened
from metalab.data.formats.layouts import Layout, SourceImage
from metalab.data.formats.matlab import fields

PARTS = {  # a file of annotations, and the folder of its images
    "cars_train": ("devkit/cars_train_annos.mat",),
    "cars_test": ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"),
}


def photographs(root: Path) -> Layout | None:
    """Recognise car_ims/ and cars_annos.mat, or cars_train/, cars_test/ and their annotations, as torchvision does."""
    for place in (root, root / "stanford_cars"):
        if (place / "cars_annos.mat").is_file() and (place / "car_ims").is_dir():
            return _layout(root, {place / "cars_annos.mat": place})
        if not all((place / folder).is_dir() for folder in PARTS):
            continue
        lists: dict[Path, Path] = {}
        for folder, names in PARTS.items():
            path = next((place / name for name in names if (place / name).is_file()), None)
            if path is None:
                raise UserError(f"data.root={root} has {folder}/, but not {names[0]}, which says what is in it.")
            lists[path] = place / folder
        return _layout(root, lists)
    return None


def _layout(root: Path, lists: dict[Path, Path]) -> Layout:
    """Return the layout of files of annotations, each with the folder of its images."""
    images: dict[str, list[Path]] = {}
    for path, folder in lists.items():
        name = "relative_im_path" if path.name == "cars_annos.mat" else "fname"
        for file, number in fields(path, "annotations", (name, "class")):
            if not isinstance(file, str) or not isinstance(number, int) or ".." in PurePosixPath(file).parts:
                raise UserError(f"{path} does not list images and the numbers of their models. Fetch it anew.")
            images.setdefault(f"{number:03d}", []).append(folder / file.lstrip("/"))
    every = [path for listed in images.values() for path in listed]
    if missing := [path for path in every if not path.is_file()]:
        raise UserError(f"{missing[0]} is missing ({len(missing):,} such): unpack its archive there.")

    def pictures() -> Iterator[SourceImage]:
        for number in sorted(images):
            for path in images[number]:
                yield SourceImage(number, number, path.relative_to(root).as_posix(), partial(opened, path))

    return Layout("annotations", [*lists, *every], lambda: dict.fromkeys(images), pictures, len(every))


BENCHMARK = PublishedDataset(
    title="Stanford Cars",
    option="stanford_cars",
    protocol="dn4",
    prefix="stanford_cars",
    splits=class_splits("stanford_cars_dn4"),
    whose="its 196 models",
    images=16_185,
    recognise=(photographs,),
    layouts=(
        "  car_ims/ and cars_annos.mat\n"
        "  cars_train/, cars_test/, devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat"
    ),
    why="its authors' page no longer has it",
)


class StanfordCars(OfficialSplitDataset):
    """Serve Stanford Cars as [3,size,size], 130/17/49 classes, by their numbers from 001 to 196."""

    benchmark = BENCHMARK
