"""Describable Textures (Cimpoi et al., 2014): 47 words for textures, 120 photographs each, Meta-Dataset's split."""

from dataclasses import dataclass
from functools import cached_property, partial

from metalab.data.archived import class_folders_in
from metalab.data.benchmark import Benchmark, check_size
from metalab.data.download import Published
from metalab.data.sources import class_splits
from metalab.data.store import Store
from metalab.interfaces import Split

ARCHIVE = "dtd-r1.0.1.tar.gz"
BENCHMARK = Benchmark(
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


@dataclass(frozen=True)
class DTD:
    """Serve Describable Textures as [3,size,size], 33/7/7 classes (Triantafillou et al., 2020)."""

    root: str | None = None
    cache: str | None = None
    size: int = 84

    def __post_init__(self) -> None:
        check_size(self.size, 84)

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with what to fetch, or what is wrong with data.root."""
        return BENCHMARK.split(self._store, split)

    @cached_property
    def _store(self) -> Store:
        return BENCHMARK.store(self.root, self.cache, self.size)
