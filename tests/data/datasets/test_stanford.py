"""Stanford's cars and dogs: tiny copies of their published forms give the classes of the DN4 paper's split."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS, class_list
from metalab.data.datasets.photos.stanford_cars import StanfordCars
from metalab.data.datasets.photos.stanford_dogs import OFFICIAL as DOGS
from metalab.data.datasets.photos.stanford_dogs import StanfordDogs
from metalab.data.identity.class_ids import seen_classes


def shade(k: int) -> bytes:
    raw = io.BytesIO()
    Image.new("RGB", (8, 8), (k, 5, 9)).save(raw, "PNG")
    return raw.getvalue()


def places(split: Split, order: list[str], prefix: str, images: int) -> None:
    """Check that each image has the red of its class's place in `order`."""
    expected = [order.index(each.removeprefix(prefix)) for each in split.ids for _ in range(images)]
    assert split.images[:, 0, 4, 4].tolist() == expected


@pytest.mark.parametrize("form", ["archive", "unpacked"])
def test_dogs_have_imagenets_ids(tmp_path, form):
    order = sorted(DOGS)
    files = {
        f"Images/{name}/{name.partition('-')[0]}_{i}.jpg": shade(k) for k, name in enumerate(order) for i in (1, 2)
    }
    if form == "archive":
        with tarfile.open(tmp_path / "images.tar", "w") as tar:
            for name, raw in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(raw)
                tar.addfile(entry, io.BytesIO(raw))
    else:
        for name, raw in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(raw)
    data = StanfordDogs(str(tmp_path), str(tmp_path / "cache"), 8)
    assert [len(data.load(name).ids) for name in SPLITS] == [70, 20, 30]
    for name in SPLITS:
        split, listed = data.load(name), class_list(f"stanford_dogs_dn4_{name}")
        assert sorted(split.ids) == sorted(f"imagenet:{each.partition('-')[0]}" for each in listed)
        places(split, [each.partition("-")[0] for each in order], "imagenet:", 2)
    pretrained = [f"imagenet:{wnid}" for wnid in class_list("imagenet_ilsvrc2012")]
    assert len(seen_classes(data.load("test"), pretrained)) == 30


def cars(root: Path, form: str) -> None:
    """Write two images of each model; their files do not stand in the order of the models."""
    numbers = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 197), 2))

    def write(folder: str, field: str, path: Path, own: np.ndarray) -> None:
        rows = np.empty(len(own), dtype=[(field, object), ("class", object)])
        for i, number in enumerate(own.tolist()):
            file = f"{i + 1:06d}.jpg"
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / file).write_bytes(shade(number - 1))
            rows[i] = (f"car_ims/{file}" if field == "relative_im_path" else file, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"annotations": rows})

    if form == "whole":
        write("car_ims", "relative_im_path", root / "cars_annos.mat", numbers)
        return
    root = root / "stanford_cars"
    write("cars_train", "fname", root / "devkit" / "cars_train_annos.mat", numbers[:300])
    write("cars_test", "fname", root / "cars_test_annos_withlabels.mat", numbers[300:])


@pytest.mark.parametrize("form", ["whole", "torchvision"])
def test_cars(tmp_path, form):
    cars(tmp_path, form)
    data = StanfordCars(str(tmp_path), str(tmp_path / "cache"), 8)
    order = [f"{number:03d}" for number in range(1, 197)]
    for name, classes in zip(SPLITS, (130, 17, 49), strict=True):
        split = data.load(name)
        assert sorted(split.ids) == [f"stanford_cars:{number}" for number in class_list(f"stanford_cars_dn4_{name}")]
        assert (len(split.ids), split.count.unique().tolist()) == (classes, [2])
        places(split, order, "stanford_cars:", 2)
    assert split.note.startswith("392 images instead of 16,185")


def test_what_is_wrong_with_the_annotations_is_told(tmp_path):
    cars(tmp_path, "torchvision")
    place = tmp_path / "stanford_cars"
    (place / "cars_train" / "000003.jpg").unlink()
    with pytest.raises(UserError, match=r"cars_train/000003\.jpg is missing \(1 such\): unpack its archive there"):
        StanfordCars(str(tmp_path), str(tmp_path / "cache"), 8).load("test")
    for rows in ([("../../evil.jpg", 3)], [("000001.jpg", 1.5)], [("000001.jpg", [1, 2])]):
        wrong = np.empty(1, dtype=[("fname", object), ("class", object)])
        wrong[0] = rows[0]
        savemat(place / "devkit" / "cars_train_annos.mat", {"annotations": wrong})
        with pytest.raises(UserError, match=r"cars_train_annos\.mat does not list images and the numbers"):
            StanfordCars(str(tmp_path), str(tmp_path / "cache"), 8).load("test")
    (place / "devkit" / "cars_train_annos.mat").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"cars_train_annos\.mat is no sound matlab file with annotations of fname and"):
        StanfordCars(str(tmp_path), str(tmp_path / "cache"), 8).load("test")
    (place / "devkit" / "cars_train_annos.mat").unlink()
    with pytest.raises(UserError, match=r"has cars_train/, but not devkit/cars_train_annos\.mat, which says what"):
        StanfordCars(str(tmp_path), str(tmp_path / "cache"), 8).load("test")
