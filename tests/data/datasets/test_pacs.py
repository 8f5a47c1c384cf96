"""PACS and the packed CIFAR-10: both forms give the same images, splits are by image, drawn once for all domains."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.photos.cifar10 import CIFAR10
from metalab.data.datasets.photos.cifar10 import CLASSES as CIFAR_CLASSES
from metalab.data.datasets.photos.pacs import CLASSES, DOMAINS, PACS, domain_of

SHARED = os.environ.get("METALAB_SHARED_DATA")
real = pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there are no real images to test on")
EACH = 10  # images a class and domain


def encoded(shade: int, form: str = "JPEG") -> bytes:
    raw = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(raw, form, quality=80)
    return raw.getvalue()


def pack(path: Path, raws: list[bytes], labels: list[int], names: tuple[str, ...], **more: Any) -> None:
    offsets = np.cumsum([0, *map(len, raws)])
    blob = np.frombuffer(b"".join(raws), np.uint8)
    np.savez(path, blob=blob, offsets=offsets, labels=np.array(labels), class_names=np.array(names), **more)


def pacs(root: Path, packed: bool) -> Path:
    """Write a small PACS, each image another shade."""
    root.mkdir()
    images = [(domain, k, i) for domain in DOMAINS for k in range(7) for i in range(EACH)]
    raws = [encoded(DOMAINS.index(domain) * 60 + k * 8 + i % 8) for domain, k, i in images]
    files = [f"{domain}/{CLASSES[k]}/{i:02}.jpg" for domain, k, i in images]
    if packed:
        pack(root / "pacs.npz", raws, [k for _, k, _ in images], CLASSES, files=np.array(files))
    else:
        for file, raw in zip(files, raws, strict=True):
            (root / "kfold" / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "kfold" / file).write_bytes(raw)
    return root


@pytest.mark.parametrize("packed", [True, False])
def test_each_class_of_each_domain_is_cut_alike_and_no_image_stands_in_two_splits(tmp_path, packed):
    root, cache = str(pacs(tmp_path / "source", packed)), str(tmp_path / "cache")
    seen: list[str] = []
    for name, images in zip(SPLITS, (7, 1, 2), strict=True):  # of 10: 2 for the test, of 8 a tenth, 1 at least
        whole = PACS(root, cache).load(name)
        assert whole.ids == [f"pacs:{each}" for each in CLASSES]
        assert whole.by_image
        assert whole.count.tolist() == [4 * images] * 7
        assert whole.note.startswith("re-encoded, 16x16, JPEG q80" if packed else "280 images instead of 9,991")
        seen += whole.files
        for domain in DOMAINS:
            one = PACS(root, cache, domain=domain).load(name)
            assert one.files == [file for file in whole.files if domain_of(file) == domain]
            assert one.count.tolist() == [images] * 7
            shade = DOMAINS.index(domain) * 60
            assert shade - 3 <= int(one.images.min()) <= int(one.images.max()) <= shade + 58
    assert len(seen) == len(set(seen)) == 280
    other = PACS(root, cache, seed=1).load("test")
    assert set(other.files) != set(PACS(root, cache).load("test").files)


def test_its_classes_can_be_split_for_episodes_and_settings_are_checked(tmp_path):
    root, cache = str(pacs(tmp_path / "source", True)), str(tmp_path / "cache")
    few = PACS(root, cache, classes=[4, 1, 2], protocol="classes", domain="sketch").load("test")
    assert (few.by_image, few.count.tolist()) == (False, [EACH] * 2)
    assert {domain_of(file) for file in few.files} == {"sketch"}
    with pytest.raises(UserError, match=r"data\.protocol=images has all classes in each split"):
        PACS(root, cache, classes=[4, 1, 2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is not laid out as PACS\. It should hold one of\n.*photo/dog"):
        PACS(str(tmp_path / "empty"), cache).load("test")
    with pytest.raises(UserError, match=r"no address offers it to all"):
        PACS(None, str(tmp_path / "none")).load("test")


def test_a_packed_cifar_10_keeps_its_test_images(tmp_path):
    tested = [i // 10 % 4 == 0 for i in range(80)]
    raws = [encoded(i, "WEBP") for i in range(80)]
    pack(tmp_path / "c.npz", raws, [i % 10 for i in range(80)], CIFAR_CLASSES, is_test=np.array(tested))
    split = {name: CIFAR10(str(tmp_path), str(tmp_path / "cache"), protocol="images").load(name) for name in SPLITS}
    assert split["test"].note == "re-encoded, WebP; 80 images instead of 60,000"
    numbers = {name: sorted(int(file.rpartition("/")[2]) for file in each.files) for name, each in split.items()}
    assert numbers["test"] == [i for i in range(80) if tested[i]]
    assert sorted(numbers["train"] + numbers["val"]) == [i for i in range(80) if not tested[i]]


def test_a_packed_file_whose_test_flags_do_not_fit_is_named(tmp_path):
    pack(tmp_path / "c.npz", [encoded(0)] * 3, [0, 1, 2], CIFAR_CLASSES, is_test=np.array([True]))
    with pytest.raises(UserError, match=r"is_test \[1\]; expected: labels \[N\]"):
        CIFAR10(str(tmp_path), str(tmp_path / "cache"), protocol="images").load("test")


@real
@pytest.mark.slow
def test_the_real_images_are_whole(tmp_path):
    domains: dict[Any, int] = {"photo": 1670, "art_painting": 2048, "cartoon": 2344, "sketch": 3929}
    for domain, images in domains.items():
        data = PACS(f"{SHARED}/pacs", str(tmp_path), domain=domain)
        splits = [data.load(name) for name in SPLITS]
        assert sum(len(split.files) for split in splits) == images
        assert splits[0].note == "re-encoded, 72x72, JPEG q80"
    data = CIFAR10(f"{SHARED}/cifar10", str(tmp_path), protocol="images")
    for name, images in zip(SPLITS, (4500, 500, 1000), strict=True):
        assert data.load(name).count.tolist() == [images] * 10
        assert data.load(name).note == "re-encoded, WebP"
