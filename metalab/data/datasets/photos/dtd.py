"""Describable Textures (Cimpoi et al., 2014): 47 words for textures, 120 photographs each, Meta-Dataset's split."""

from functools import partial

from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.class_folder_archive import class_folders_in
from metalab.data.formats.download import Published

ARCHIVE = "dtd-r1.0.1.tar.gz"
BENCHMARK = PublishedDataset(
    title="Describable Textures",
    option="dtd",
    protocol="metadataset",
    prefix="dtd",
    splits=class_splits("dtd_metadataset"),
    whose="its 47 textures",
    images=5_640,
    recognise=(partial(class_folders_in, folder="dtd", inside="images", archives=(ARCHIVE,)),),
    layouts=f"  {ARCHIVE}, the official archive, or its unpacked folder dtd/ with images/",
    downloads=(
        Published(
            ARCHIVE,
            (f"https://www.robots.ox.ac.uk/~vgg/data/dtd/download/{ARCHIVE}",),
            "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
        ),
    ),
)


class DTD(OfficialSplitDataset):
    """Serve Describable Textures as [3,size,size], 33/7/7 classes (Triantafillou et al., 2020)."""

    benchmark = BENCHMARK
