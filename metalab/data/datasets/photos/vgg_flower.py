"""VGG Flower (Nilsback and Zisserman, 2008): 102 kinds of flowers, 40 to 258 photographs each, Meta-Dataset's split."""

from pathlib import Path

from metalab.core.errors import UserError
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.archives import found
from metalab.data.formats.class_folder_archive import layout
from metalab.data.formats.download import Published
from metalab.data.formats.layouts import Layout
from metalab.data.formats.matlab import arrays

AT = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
OFFICIAL = class_splits("vgg_flower_metadataset")  # 001.pink primrose: the number is the label


def photographs(root: Path) -> Layout | None:
    """Recognise jpg/image_00001.jpg, ..., unpacked or in 102flowers.tgz, beside imagelabels.mat."""
    for place in (root, root / "flowers-102"):  # torchvision's folder
        files, labels = found(place, "jpg", ("102flowers.tgz",)), place / "imagelabels.mat"
        if files is None or not labels.is_file():
            continue
        names = sorted(name for name in files.names if name.endswith(".jpg"))
        (each,) = arrays(labels, ("labels",))
        flowers = {int(flower[:3]): flower for flower in OFFICIAL}
        if each.size != len(names) or not set(each.ravel().tolist()) <= set(flowers):
            raise UserError(f"{labels} does not name the flowers of {len(names)} images, but of {each.size}.")
        images: dict[str, list[str]] = {flower: [] for flower in sorted(OFFICIAL)}
        for name, label in zip(names, each.ravel().tolist(), strict=True):
            images[flowers[label]].append(name)
        made = layout(files, {flower: listed for flower, listed in images.items() if listed})
        return made._replace(files=[*made.files, labels])
    return None


BENCHMARK = PublishedDataset(
    title="VGG Flower",
    option="vgg_flower",
    protocol="metadataset",
    prefix="vgg_flower",
    splits=OFFICIAL,
    whose="its 102 flowers",
    images=8_189,
    recognise=(photographs,),
    layouts="  102flowers.tgz, or its unpacked folder jpg/, and imagelabels.mat",
    downloads=(
        Published("102flowers.tgz", (f"{AT}102flowers.tgz",), "md5:52808999861908f626f3c1f4e79d11fa"),
        Published("imagelabels.mat", (f"{AT}imagelabels.mat",), "md5:e0620be6f572b9609742df49c70aed4d"),
    ),
)


class VGGFlower(OfficialSplitDataset):
    """Serve VGG Flower as [3,size,size], 71/15/16 classes (Triantafillou et al., 2020)."""

    benchmark = BENCHMARK
