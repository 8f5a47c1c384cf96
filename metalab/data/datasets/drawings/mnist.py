"""MNIST and what was made to replace it: KMNIST, Fashion-MNIST and EMNIST, grey 28x28, class by class."""

from dataclasses import dataclass, field
from typing import ClassVar

from metalab.data.datasets.base.class_split import ClassSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.download import Published
from metalab.data.formats.idx import Idx

DIGITS = tuple("0123456789")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
BALANCED = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")  # EMNIST's: what looks alike in both cases is one
IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
ALL_FOUR = "  train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the same of t10k, unpacked or not, or in {}"


def _published(addresses: tuple[str, ...], sums: tuple[str, ...]) -> tuple[Published, ...]:
    names = [f"{form.format(part)}.gz" for part in ("train", "t10k") for form in (IMAGES, LABELS)]
    return tuple(
        Published(name, tuple(f"{address}{name}" for address in addresses), f"md5:{md5}")
        for name, md5 in zip(names, sums, strict=True)
    )


def _four(
    title: str, option: str, classes: tuple[str, ...], downloads: tuple[Published, ...], folder: str
) -> PublishedDataset:
    idx = Idx(IMAGES, LABELS, ("train", "t10k"), classes, (f"{folder}/raw",))
    return PublishedDataset(
        title=title,
        option=option,
        protocol="",
        prefix=option,
        splits=dict.fromkeys(classes, "test"),
        whose="its 10 classes",
        images=70_000,
        recognise=(idx.recognise,),
        layouts=ALL_FOUR.format(f"{folder}/raw/, where torchvision puts them"),
        downloads=downloads,
        channels=1,
        tested="t10k/",
    )


MNIST_SUMS = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
KMNIST_SUMS = (
    "bdb82020997e1d708af4cf47b453dcf7",
    "e144d726b3acfaa3e44228e80efcd344",
    "5c965bf0a639b31b8f53240b1b52f4d7",
    "7320c461ea6c1c855c0b718fb2a4b134",
)
FASHION_SUMS = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
MNIST_AT = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
KMNIST_AT = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",)
FASHION_AT = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",  # its authors' repository
)
WHOLE = {
    "mnist": _four("MNIST", "mnist", DIGITS, _published(MNIST_AT, MNIST_SUMS), "MNIST"),
    "kmnist": _four("KMNIST", "kmnist", KUZUSHIJI, _published(KMNIST_AT, KMNIST_SUMS), "KMNIST"),
    "fashion_mnist": _four(
        "Fashion-MNIST", "fashion_mnist", CLOTHES, _published(FASHION_AT, FASHION_SUMS), "FashionMNIST"
    ),
    "emnist": PublishedDataset(
        title="EMNIST",
        option="emnist",
        protocol="",
        prefix="emnist",
        splits=dict.fromkeys(BALANCED, "test"),
        whose="the 47 classes of its balanced part",
        images=131_600,
        recognise=(
            Idx(
                "emnist-balanced-{}-images-idx3-ubyte",
                "emnist-balanced-{}-labels-idx1-ubyte",
                ("train", "test"),
                BALANCED,
                ("EMNIST/raw", "gzip"),
                packed="gzip.zip",
                lying=True,
            ).recognise,
        ),
        layouts="  gzip.zip, the official archive, or emnist-balanced-train-images-idx3-ubyte.gz and its three kin",
        downloads=(
            Published(
                "gzip.zip",
                ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
                "md5:58c8d27c78d21e728a6bc7b3cc06412e",
            ),
        ),
        channels=1,
        # both were cut from NIST's Special Database 19: a net that has seen MNIST's digits has seen these
        elsewhere={digit: f"mnist:{digit}" for digit in DIGITS},
        tested="test/",
    ),
}


class MNIST(ClassSplitDataset):
    """Serve MNIST as [1,size,size], 10 digits of some 7,000 images each, ink 255 on 0."""

    whole = WHOLE["mnist"]


class KMNIST(ClassSplitDataset):
    """Serve KMNIST as [1,size,size], 10 cursive Japanese characters of 7,000 images each, ink 255 on 0."""

    whole = WHOLE["kmnist"]


class FashionMNIST(ClassSplitDataset):
    """Serve Fashion-MNIST as [1,size,size], 10 kinds of clothes of 7,000 images each, on black."""

    whole = WHOLE["fashion_mnist"]


@dataclass(frozen=True)
class EMNIST(ClassSplitDataset):
    """Serve EMNIST's balanced part as [1,size,size], 47 digits and letters of 2,800 images each, ink 255 on 0."""

    whole: ClassVar[PublishedDataset] = WHOLE["emnist"]

    classes: list[int] = field(default_factory=lambda: [0, 0, 47])
