"""CUB-200-2011 (Wah et al., 2011): 200 kinds of birds, some 60 photographs each."""

import re
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

from metalab.core.interfaces import Split
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.published import PublishedDataset, check_size
from metalab.data.formats.class_folder_archive import class_folders_in
from metalab.data.formats.download import Published
from metalab.data.formats.layouts import class_folders
from metalab.data.storage.store import Store

BIRD = re.compile(r"\d{3}\..+")  # 001.Black_footed_Albatross
DOWNLOAD = Published(
    name="CUB_200_2011.tgz",
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    checksum="md5:97eceeb196236b17998738112f37df78",
)


def _benchmark(protocol: str) -> PublishedDataset:
    return PublishedDataset(
        title="CUB-200-2011",
        option="cub",
        protocol=protocol,
        prefix="cub",
        splits=class_splits(f"cub_{protocol}"),
        whose="the 200 kinds of birds",
        images=11_788,
        recognise=(
            partial(class_folders_in, folder="CUB_200_2011", inside="images", archives=("CUB_200_2011.tgz",)),
            partial(class_folders, named=BIRD),
        ),
        layouts=(
            "  CUB_200_2011.tgz, the official archive, or its unpacked folder CUB_200_2011/ with images/\n"
            "  all 200 class folders side by side: 001.Black_footed_Albatross/*.jpg"
        ),
        downloads=(DOWNLOAD,),
    )


PROTOCOLS = {
    "closerlook": _benchmark("closerlook"),
    "metadataset": _benchmark("metadataset"),
}


@dataclass(frozen=True)
class CUB:
    """Serve CUB-200-2011 as [3,size,size], 100/50/50 classes (closerlook) or 140/30/30 (metadataset).

    closerlook is the split of Chen et al. (2019), metadataset that of Triantafillou et al. (2020).
    """

    root: str | None = None
    cache: str | None = None
    protocol: Literal["closerlook", "metadataset"] = "closerlook"
    size: int = 84

    def __post_init__(self) -> None:
        check_size(self.size, 84)

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with the layouts data.root may have, or what is wrong."""
        return PROTOCOLS[self.protocol].split(self._store, split)

    @cached_property
    def _store(self) -> Store:
        return PROTOCOLS[self.protocol].store(self.root, self.cache, self.size)
