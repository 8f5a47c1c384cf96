"""ImageNet (ILSVRC 2012, Russakovsky et al., 2015): the training images of its 1000 classes, Meta-Dataset's split."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from metalab.data.class_lists import class_list, class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.layouts import Layout, SourceImage, class_folders

PLACES = (".", "train", "ILSVRC2012_img_train", "Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/train")


def photographs(root: Path) -> Layout | None:
    """Recognise a folder a class, n01440764/*.JPEG; what CUB and Caltech have, too, is left out, as in Meta-Dataset."""
    for place in PLACES:
        found = class_folders(root / place, flat=True) if (root / place).is_dir() else None
        if found is not None:
            return _without_copies(found, place)
    return None


def _without_copies(found: Layout, place: str) -> Layout:
    """Return the layout without the images that Meta-Dataset leaves out; place: of the class folders in data.root."""
    copies = {line.split()[1] for line in class_list("imagenet_duplicates")}
    kept = [path for path in found.files if path.name not in copies]

    def pictures() -> Iterator[SourceImage]:
        for each in found.pictures():
            file = PurePosixPath(place, each.file)
            if file.name not in copies:
                yield each._replace(file=str(file))

    return found._replace(pictures=pictures, files=kept, total=len(kept))


BENCHMARK = PublishedDataset(
    title="ImageNet",
    option="ilsvrc",
    protocol="metadataset",
    prefix="imagenet",
    splits=class_splits("ilsvrc_metadataset"),
    whose="the 1000 classes of ILSVRC 2012",
    images=1_280_764,
    recognise=(photographs,),
    layouts=(
        "  the 1000 class folders of the training images side by side: n01440764/*.JPEG, also in train/,\n"
        "  ILSVRC2012_img_train/ or ILSVRC/Data/CLS-LOC/train/"
    ),
    why="its images may not be passed on (image-net.org)",
)


class ILSVRC(OfficialSplitDataset):
    """Serve ImageNet's training images as [3,size,size], 712/158/130 classes (Triantafillou et al., 2020)."""

    benchmark = BENCHMARK
