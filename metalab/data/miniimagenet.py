"""miniImageNet (Vinyals et al., 2016): 100 classes of ImageNet, 600 images each, Ravi and Larochelle's split."""

from dataclasses import dataclass
from functools import cached_property

from metalab.data.benchmark import Benchmark, check_size
from metalab.data.layouts import class_folders, csv_images, packed, pickles
from metalab.data.sources import class_splits
from metalab.data.store import Store
from metalab.interfaces import Split

BENCHMARK = Benchmark(
    title="miniImageNet",
    option="miniimagenet",
    protocol="ravi",
    prefix="imagenet",
    splits=class_splits("miniimagenet_ravi"),
    whose="Ravi and Larochelle's 64/16/20 classes",
    images=60_000,
    recognise=(csv_images, class_folders, pickles, packed),
    layouts=(
        "  train/ val/ test/, in each a folder a class: train/n01532829/*.jpg (or all 100 class folders side by side)\n"
        "  train.csv val.csv test.csv (columns filename,label) and images/*.jpg\n"
        "  mini-imagenet-cache-train.pkl, -validation.pkl and -test.pkl, learn2learn's\n"
        "  *.npz, each JPEG files packed one after another: blob, offsets, labels, class_names, files"
    ),
    why="its images may not be passed on: no address offers it to all",
)


@dataclass(frozen=True)
class MiniImageNet:
    """Serve miniImageNet as [3,size,size], 64/16/20 classes."""

    root: str | None = None
    cache: str | None = None
    size: int = 84

    def __post_init__(self) -> None:
        check_size(self.size, 84)

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with the layouts data.root may have, or what is wrong."""
        return BENCHMARK.split(self._store, split)

    @cached_property
    def _store(self) -> Store:
        return BENCHMARK.store(self.root, self.cache, self.size)
