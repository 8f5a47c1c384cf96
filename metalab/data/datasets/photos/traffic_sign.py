"""German traffic signs (Houben et al., 2013): 43 signs, cut out of videos, all of them Meta-Dataset's test classes."""

from pathlib import Path

from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.archives import found
from metalab.data.formats.class_folder_archive import layout
from metalab.data.formats.layouts import Layout

ARCHIVE = "GTSRB_Final_Training_Images.zip"
OFFICIAL = class_splits("traffic_sign_metadataset")  # 00.Speed limit (20km/h): the number is the folder's
PLACES = ("Final_Training/Images/", "Training/")  # in the official archive, in torchvision's


def photographs(root: Path) -> Layout | None:
    """Recognise GTSRB/ with 00000/*.ppm, ..., one folder a sign, unpacked or in its archive."""
    for folder in (root, root / "gtsrb"):  # torchvision's
        files = found(folder, "GTSRB", (ARCHIVE, "GTSRB-Training_fixed.zip"))
        if files is None:
            continue
        for place in PLACES:
            if images := _signs(files.names, place):
                return layout(files, images)
    return None


def _signs(names: list[str], place: str) -> dict[str, list[str]]:
    """Return the images of each sign among the files below a place."""
    signs = {f"{int(name[:2]):05d}": name for name in OFFICIAL}
    images: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(place) and name.lower().endswith(".ppm"):
            folder = name.removeprefix(place).partition("/")[0]
            images.setdefault(signs.get(folder, folder), []).append(name)
    return images


BENCHMARK = PublishedDataset(
    title="German traffic signs",
    option="traffic_sign",
    protocol="metadataset",
    prefix="traffic_sign",
    splits=OFFICIAL,
    whose="its 43 signs",
    images=39_209,
    recognise=(photographs,),
    layouts=f"  {ARCHIVE}, the official archive, or its unpacked folder GTSRB/",
    why=f"no checksum of {ARCHIVE} is published (benchmark.ini.rub.de)",
)


class TrafficSign(OfficialSplitDataset):
    """Serve German traffic signs as [3,size,size], 0/0/43 classes (Triantafillou et al., 2020)."""

    benchmark = BENCHMARK
