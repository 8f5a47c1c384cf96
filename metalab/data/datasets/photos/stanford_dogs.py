"""Stanford Dogs (Khosla et al., 2011): 120 breeds, photographs of ImageNet, the split of Li et al. (2019, DN4)."""

from functools import partial

from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.class_folder_archive import class_folders_in

OFFICIAL = class_splits("stanford_dogs_dn4")  # n02085620-Chihuahua
BENCHMARK = PublishedDataset(
    title="Stanford Dogs",
    option="stanford_dogs",
    protocol="dn4",
    prefix="stanford_dogs",
    splits=OFFICIAL,
    whose="its 120 breeds",
    images=20_580,
    recognise=(partial(class_folders_in, folder="Images", inside="", archives=("images.tar",)),),
    layouts="  images.tar, the official archive, or its unpacked folder Images/",
    why="no checksum of images.tar is published (vision.stanford.edu/aditya86/ImageNetDogs)",
    elsewhere={name: f"imagenet:{name.partition('-')[0]}" for name in OFFICIAL},
)


class StanfordDogs(OfficialSplitDataset):
    """Serve Stanford Dogs as [3,size,size], 70/20/30 classes, which are ImageNet's and have its ids."""

    benchmark = BENCHMARK
