"""MNIST and its kin, SVHN and CIFAR-10: every published form is read right, and how they are split."""

import gzip
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.base.image_split import image_split
from metalab.data.datasets.drawings.mnist import (
    BALANCED,
    CLOTHES,
    EMNIST,
    KMNIST,
    KUZUSHIJI,
    MNIST,
    WHOLE,
    FashionMNIST,
)
from metalab.data.datasets.photos.cifar10 import CIFAR10, CLASSES
from metalab.data.datasets.photos.cifar10 import WHOLE as CIFAR_10
from metalab.data.datasets.photos.svhn import SVHN
from metalab.data.datasets.photos.svhn import WHOLE as SVHN_WHOLE
from metalab.data.formats import download
from tests.data.few_classes import FOUR, cifar_10, digits, emnist, four, svhn, unpacked, zipped


@pytest.mark.parametrize("option", FOUR)
@pytest.mark.parametrize("torchvisions", [False, True])
def test_idx_files_are_read_wherever_they_lie(tmp_path, option, torchvisions):
    kind, classes = FOUR[option]
    four(tmp_path / kind.__name__ / "raw" if torchvisions else tmp_path)
    if torchvisions:
        unpacked(tmp_path)
    split = kind(str(tmp_path), str(tmp_path / "cache")).load("test")
    names = {"mnist": tuple("0123456789"), "kmnist": KUZUSHIJI, "fashion_mnist": CLOTHES}[option]
    assert split.ids == [f"{option}:{name}" for name in names]
    expected = np.stack([digits(k, i) for k in range(classes) for i in range(3)])[:, None]
    assert np.array_equal(split.images.numpy(), expected)
    assert split.note == "30 images instead of 70,000"


@pytest.mark.parametrize("lay_out", [emnist, zipped])
def test_emnist_stands_upright_and_its_digits_are_mnists(tmp_path, lay_out):
    lay_out(tmp_path)
    split = EMNIST(str(tmp_path), str(tmp_path / "cache")).load("test")
    assert split.ids == [f"mnist:{k}" for k in range(10)] + [f"emnist:{name}" for name in BALANCED[10:]]
    expected = np.stack([digits(k, i) for k in range(47) for i in range(3)])[:, None]
    assert np.array_equal(split.images.numpy(), expected)


AUTHORS = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"


def test_names_and_downloads_are_torchvisions():
    sets = torchvision.datasets
    assert list(BALANCED) == sets.EMNIST.classes_split_dict["balanced"]
    assert list(KUZUSHIJI) == sets.KMNIST.classes
    assert list(CLOTHES) == sets.FashionMNIST.classes
    for option, kind in (("mnist", sets.MNIST), ("kmnist", sets.KMNIST), ("fashion_mnist", sets.FashionMNIST)):
        expected = {(f"{mirror}{name}", f"md5:{md5}") for name, md5 in kind.resources for mirror in kind.mirrors}
        ours = {(url, file.checksum) for file in WHOLE[option].downloads for url in file.urls}
        assert {pair for pair in ours if not pair[0].startswith(AUTHORS)} == expected
    for file in WHOLE["fashion_mnist"].downloads:  # torchvision knows one mirror, the authors' repository is another
        assert file.urls[1] == f"{AUTHORS}{file.urls[0].rsplit('/', 1)[1]}"
    (file,) = WHOLE["emnist"].downloads
    assert (file.urls[0], file.checksum) == (sets.EMNIST.url, f"md5:{sets.EMNIST.md5}")
    for file, part in zip(SVHN_WHOLE.downloads, ("train", "test"), strict=True):
        assert [file.urls[0], file.name, file.checksum.removeprefix("md5:")] == sets.SVHN.split_list[part]
    (file,) = CIFAR_10.downloads
    assert (file.urls[0], file.checksum) == (sets.CIFAR10.url, f"md5:{sets.CIFAR10.tgz_md5}")


def test_svhn_reads_ten_as_zero(tmp_path):
    svhn(tmp_path)
    split = SVHN(str(tmp_path), str(tmp_path / "cache")).load("test")
    assert split.ids == [f"svhn:{k}" for k in range(10)]
    assert split.images[:, :, 31, 0].tolist() == [[10 * k, i, 7] for k in range(10) for i in range(3)]
    assert split.images[:, :, 0].max() == 0


def test_cifar_10_is_read_from_its_archive(tmp_path):
    cifar_10(tmp_path)
    split = CIFAR10(str(tmp_path), str(tmp_path / "cache")).load("test")
    assert split.ids == [f"cifar10:{name}" for name in CLASSES]
    assert split.images[:, 2, 5, 5].tolist() == [10 * k + b for k in range(10) for b in range(6)]


def test_data_classes_splits_the_classes_by_the_seed_and_some_may_be_left_out(tmp_path):
    four(tmp_path)
    for seed in (0, 1):
        data = MNIST(str(tmp_path), str(tmp_path / "cache"), classes=[4, 2, 3], seed=seed)
        splits = {name: data.load(name).ids for name in SPLITS}
        assert [len(ids) for ids in splits.values()] == [4, 2, 3]
        assert len(set().union(*splits.values())) == 9
        if seed:
            assert splits["train"] != MNIST(str(tmp_path), str(tmp_path / "cache"), classes=[4, 2, 3]).load("train").ids
    with pytest.raises(UserError, match=r"data\.classes=\[0, 0, 10\] leaves no class for train: type three numbers"):
        MNIST(str(tmp_path), str(tmp_path / "cache")).load("train")


WAYS = [(MNIST, four), (KMNIST, four), (FashionMNIST, four), (EMNIST, emnist), (SVHN, svhn), (CIFAR10, cifar_10)]


@pytest.mark.parametrize(("kind", "lay_out"), WAYS)
def test_data_protocol_images_tests_on_the_published_test_images_and_trains_on_none_of_them(tmp_path, kind, lay_out):
    lay_out(tmp_path)
    whole = kind(str(tmp_path), str(tmp_path / "cache")).load("test")
    parts = {name: kind(str(tmp_path), str(tmp_path / "cache"), protocol="images").load(name) for name in SPLITS}
    prefix = {MNIST: "t10k/", KMNIST: "t10k/", FashionMNIST: "t10k/", EMNIST: "test/", SVHN: "test_32x32/"}
    published = [file for file in whole.files if file.startswith(prefix.get(kind, "test_batch/"))]
    assert parts["test"].files == published
    assert len(published) == len(whole.ids)  # one a class
    assert sorted(parts["train"].files + parts["val"].files) == sorted(set(whole.files) - set(published))
    assert not set(parts["train"].files) & set(parts["val"].files)
    for part in parts.values():
        assert part.by_image
        assert (part.ids, part.names) == (whole.ids, whole.names)
        assert part.first.tolist() == (part.count.cumsum(0) - part.count).tolist()
        for k, (first, count) in enumerate(zip(part.first.tolist(), part.count.tolist(), strict=True)):
            for i in range(first, first + count):
                at = whole.files.index(part.files[i], int(whole.first[k]), int(whole.first[k] + whole.count[k]))
                assert part.images[i].equal(whole.images[at])
                assert part.image_ids[i] == whole.image_ids[at]
    assert len(list((tmp_path / "cache").glob("*/store.json"))) == 1  # one store for both protocols


def test_a_tenth_of_each_class_is_held_out_by_the_seed(tmp_path):
    count = torch.tensor([43, 30, 9])
    files = [f"{'test' if i < 3 else 'train'}/{k}-{i}" for k, n in enumerate(count.tolist()) for i in range(n)]
    images = torch.arange(82, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    whole = Split(images, count.cumsum(0) - count, count, list("abc"), list("abc"), files)
    assert [image_split(whole, "test/", name, 0).count.tolist() for name in SPLITS] == [
        [36, 25, 5],
        [4, 2, 1],
        [3, 3, 3],
    ]
    first, again, other = (image_split(whole, "test/", "val", seed).files for seed in (0, 0, 1))
    assert first == again != other
    assert image_split(whole, "test/", "test", 1).files == image_split(whole, "test/", "test", 0).files
    with pytest.raises(UserError, match=r"^class a has 43 training images and 0 test images, which leaves none for te"):
        image_split(whole, "t10k/", "train", 0)


def test_protocols_that_contradict_are_told():
    with pytest.raises(UserError, match=r"^data\.protocol=images has all classes .* data\.classes=\[4, 3, 3\] splits"):
        MNIST(protocol="images", classes=[4, 3, 3])
    assert EMNIST(protocol="images").classes == [0, 0, 47]


@pytest.mark.parametrize("classes", [[5, 5], [-1, 0, 5], [5, 5, 5], [0, 0, 0]])
@pytest.mark.parametrize("kind", [MNIST, KMNIST, FashionMNIST, SVHN, CIFAR10])
def test_settings_are_checked(kind, classes):
    with pytest.raises(
        UserError, match=r"expected three numbers of classes, for train, val and test, of the 10 there are"
    ):
        kind(classes=classes)
    with pytest.raises(UserError, match=r"data\.seed=-1: expected 0 or more"):
        kind(seed=-1)
    with pytest.raises(UserError, match=r"data\.size=1 is out of range"):
        kind(size=1)


BROKEN: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda raw: b"<html>", "Not a gzipped file"),
    (lambda raw: raw[: len(raw) // 2], "ended before"),
    (lambda raw: gzip.compress(b"\0\0\x0d" + gzip.decompress(raw)[3:]), "it does not begin as one"),
    (lambda raw: gzip.compress(gzip.decompress(raw)[:-9]), r"23,511 bytes for \[30, 28, 28\]|7,8.. bytes for"),
]


@pytest.mark.parametrize(("harm", "why"), BROKEN)
def test_a_broken_idx_file_is_named(tmp_path, harm, why):
    four(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UserError, match=rf"t10k-images-idx3-ubyte\.gz is no sound idx file \(.*({why})"):
        MNIST(str(tmp_path), str(tmp_path / "cache")).load("test")


@pytest.mark.parametrize("kind", [MNIST, KMNIST, FashionMNIST, EMNIST, SVHN, CIFAR10])
def test_without_a_network_one_error_says_what_to_fetch_and_nothing_is_left(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(
        download.urllib.request, "urlopen", lambda *a, **k: (_ for _ in ()).throw(TimeoutError("no net"))
    )
    with pytest.raises(
        UserError, match=r"By hand: fetch http.*, put into one folder as it comes, and type data\.root="
    ):
        kind(None, str(tmp_path)).load("test")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
