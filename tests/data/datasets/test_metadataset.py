"""Textures, flowers, aircraft, fungi and drawings: tiny copies of their published forms give the published classes."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS, class_list
from metalab.data.datasets.drawings.quickdraw import OFFICIAL as DRAWINGS
from metalab.data.datasets.drawings.quickdraw import QuickDraw
from metalab.data.datasets.photos.aircraft import BENCHMARK as AIRCRAFT
from metalab.data.datasets.photos.aircraft import Aircraft
from metalab.data.datasets.photos.dtd import BENCHMARK as TEXTURES
from metalab.data.datasets.photos.dtd import DTD
from metalab.data.datasets.photos.fungi import BENCHMARK as FUNGI
from metalab.data.datasets.photos.fungi import Fungi
from metalab.data.datasets.photos.ilsvrc import BENCHMARK as IMAGENET
from metalab.data.datasets.photos.ilsvrc import ILSVRC
from metalab.data.datasets.photos.mscoco import BENCHMARK as OBJECTS
from metalab.data.datasets.photos.mscoco import MSCOCO, larger
from metalab.data.datasets.photos.traffic_sign import BENCHMARK as SIGNS
from metalab.data.datasets.photos.traffic_sign import TrafficSign
from metalab.data.datasets.photos.vgg_flower import BENCHMARK as FLOWERS
from metalab.data.datasets.photos.vgg_flower import VGGFlower
from metalab.data.storage.store import NoSplit


def shade(k: int, margin: int = 0) -> bytes:
    """Return a picture whose red and green name class k, its first pixel marked in blue, within a white margin."""
    image = Image.new("RGB", (8, 8), (k % 256, k // 256, 9))
    image.putpixel((0, 0), (k % 256, k // 256, 200))
    page = Image.new("RGB", (8 + 2 * margin, 8 + margin), "white")
    page.paste(image, (margin, margin))
    raw = io.BytesIO()
    page.save(raw, "PNG")
    return raw.getvalue()


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, raw in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)


def pack(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, raw in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))


def splits(data: DTD | VGGFlower | Aircraft | Fungi | QuickDraw, option: str) -> dict[str, Split]:
    """Return the three splits, whose classes are the published ones."""
    found = {name: data.load(name) for name in SPLITS}
    for name, split in found.items():
        assert sorted(split.ids) == [f"{option}:{each}" for each in class_list(f"{option}_metadataset_{name}")]
    return found


def check(data: DTD | VGGFlower | Aircraft | Fungi, option: str, order: list[str], images: int) -> None:
    """Check that every image of every split has the colour of its class's place in `order`."""
    for split in splits(data, option).values():
        places = [order.index(each.partition(":")[2]) for each in split.ids for _ in range(images)]
        assert (split.images[:, 2] == 200).sum((1, 2)).tolist() == [1] * len(places)
        assert bool((split.images[:, 2, 0, 0] == 200).all())
        assert split.images[:, :2].amax((2, 3)).tolist() == [[k % 256, k // 256] for k in places]
        assert split.images[:, :2].amin((2, 3)).tolist() == [[k % 256, k // 256] for k in places]


@pytest.mark.parametrize("form", ["dtd", "dtd/dtd", "archive"])
def test_textures(tmp_path, form):
    order = sorted(TEXTURES.splits)
    files = {f"images/{name}/{name}_{i}.png": shade(k) for k, name in enumerate(order) for i in range(2)}
    files |= {"images/waffled/.directory": b"", "labels/train1.txt": b"x"}
    if form == "archive":
        pack(tmp_path / "dtd-r1.0.1.tar.gz", {f"dtd/{name}": raw for name, raw in files.items()})
    else:
        write(tmp_path / form, files)
    check(DTD(str(tmp_path), str(tmp_path / "cache"), 8), "dtd", order, 2)
    note = "94 images instead of 5,640; 7 images are copies of others of their class"
    assert DTD(None, str(tmp_path / "cache"), 8).load("val").note == note


@pytest.mark.parametrize("form", ["archive", "unpacked", "torchvision"])
def test_flowers(tmp_path, form):
    order = sorted(FLOWERS.splits)
    labels = [k for k in range(102) for _ in range(2)][::-1]
    files = {f"jpg/image_{i + 1:05d}.jpg": shade(k) for i, k in enumerate(labels)}
    root = tmp_path / "flowers-102" if form == "torchvision" else tmp_path
    if form == "archive":
        pack(root / "102flowers.tgz", files)
    else:
        write(root, files)
    savemat(root / "imagelabels.mat", {"labels": np.array([k + 1 for k in labels])[None]})
    check(VGGFlower(str(tmp_path), str(tmp_path / "cache"), 8), "vgg_flower", order, 2)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2]])})
    with pytest.raises(UserError, match=r"imagelabels\.mat does not name the flowers of 204 images"):
        VGGFlower(str(tmp_path), str(tmp_path / "cache"), 8).load("train")


@pytest.mark.parametrize("form", ["archive", "unpacked"])
def test_aircraft_are_cropped_to_their_boxes(tmp_path, form):
    order = sorted(AIRCRAFT.splits)
    files, lists, boxes = {}, {"trainval": "", "test": ""}, ""
    for k, variant in enumerate(order):
        for i, part in enumerate(lists):
            key = f"{2 * k + i:07d}"
            files[f"data/images/{key}.jpg"] = shade(k, margin=3)
            lists[part] += f"{key} {variant}\n"
            boxes += f"{key} 4 4 11 11\n"
    files |= {f"data/images_variant_{part}.txt": text.encode() for part, text in lists.items()}
    files["data/images_box.txt"] = boxes.encode()
    files = {f"fgvc-aircraft-2013b/{name}": raw for name, raw in files.items()}
    if form == "archive":
        pack(tmp_path / "fgvc-aircraft-2013b.tar.gz", files)
    else:
        write(tmp_path, files)
    check(Aircraft(str(tmp_path), str(tmp_path / "cache"), 8), "aircraft", order, 2)
    write(tmp_path, {**files, "fgvc-aircraft-2013b/data/images_box.txt": b"0000000 4 4 13\n"})
    with pytest.raises(UserError, match="its lists of variants and boxes do not fit"):
        Aircraft(str(tmp_path), str(tmp_path / "cache"), 8).load("train")


def fungi(root: Path) -> dict[str, dict[str, list]]:
    order = sorted(FUNGI.splits)
    categories = [{"id": k, "name": name[5:]} for k, name in enumerate(order)]
    lists = {}
    for i, part in enumerate(("train", "val")):
        files = [f"images/{k}/{part}.png" for k in range(len(order))]
        lists[part] = {
            "categories": categories,
            "images": [{"id": 10_000 * i + k, "file_name": file} for k, file in enumerate(files)],
            "annotations": [{"image_id": 10_000 * i + k, "category_id": k} for k in range(len(order))],
        }
        write(root, {f"{part}.json": json.dumps(lists[part]).encode()})
        write(root, {file: shade(k) for k, file in enumerate(files)})
    return lists


def test_fungi(tmp_path):
    order = sorted(FUNGI.splits)
    assert [int(name[:4]) for name in order] == list(range(1394))
    lists = fungi(tmp_path)
    check(Fungi(str(tmp_path), str(tmp_path / "cache"), 8), "fungi", order, 2)
    (tmp_path / "images" / "5" / "val.png").unlink()
    with pytest.raises(UserError, match=r"images/5/val\.png is missing \(1 such\): unpack fungi_train_val\.tgz into"):
        Fungi(str(tmp_path), str(tmp_path / "cache"), 8).load("train")
    lists["val"]["images"][5]["file_name"] = "../evil.png"
    (tmp_path / "val.json").write_text(json.dumps(lists["val"]))
    with pytest.raises(UserError, match=r"names a file outside of data\.root \('\.\./evil\.png'\)"):
        Fungi(str(tmp_path), str(tmp_path / "cache"), 8).load("train")
    (tmp_path / "val.json").write_text("[]")
    with pytest.raises(UserError, match=r"val\.json does not list categories, images and annotations"):
        Fungi(str(tmp_path), str(tmp_path / "cache"), 8).load("train")


@pytest.mark.parametrize("prefix", ["", "full_numpy_bitmap_"])
def test_drawings(tmp_path, prefix):
    order = sorted(DRAWINGS)
    for k, name in enumerate(order):
        drawings = np.full((5, 28, 28), k % 256, np.uint8)
        drawings[:, :4] = np.arange(5)[:, None, None]
        np.save(tmp_path / f"{prefix}{name}.npy", drawings.reshape(5, 784))
    data = QuickDraw(str(tmp_path), str(tmp_path / "cache"), images=3)
    for split in splits(data, "quickdraw").values():
        places = [order.index(each.removeprefix("quickdraw:")) % 256 for each in split.ids for _ in range(3)]
        assert split.images[:, 0, 27, 0].tolist() == places
        assert split.images[:, 0, 0, 27].tolist() == [0, 1, 2] * len(split.ids)
        assert split.note == "the first 3 drawings of each class"
    np.save(tmp_path / f"{prefix}{order[0]}.npy", np.zeros((0, 784), np.uint8))
    with pytest.raises(UserError, match=rf"1 of the 345 classes of Quick, Draw! have no image: {order[0]};"):
        QuickDraw(str(tmp_path), str(tmp_path / "cache"), images=3).load("train")
    np.save(tmp_path / f"{prefix}{order[0]}.npy", np.zeros((5, 28, 28)))
    with pytest.raises(UserError, match=r"expected uint8 \[N,784\], found float64 \[5, 28, 28\]"):
        QuickDraw(str(tmp_path), str(tmp_path / "cache"), images=3).load("train")
    with pytest.raises(UserError, match=r"data\.images=1: expected 2 to 100000"):
        QuickDraw(images=1)


def without_training_classes(data: Any, option: str, order: list[str], images: int, only: tuple[str, ...]) -> None:
    """Check as `check` does what has classes for some splits alone, and that the others are told."""
    for name in SPLITS:
        listed = class_list(f"{option}_metadataset_{name}")
        if name not in only:
            with pytest.raises(NoSplit, match=f"has no split '{name}'; it has: {only[0]}"):
                data.load(name)
            assert not listed
            continue
        split = data.load(name)
        assert sorted(split.ids) == [f"{option}:{each}" for each in sorted(listed)]
        places = [order.index(each.partition(":")[2]) for each in split.ids for _ in range(images)]
        assert split.images[:, :2].amax((2, 3)).tolist() == [[k % 256, k // 256] for k in places]
        assert split.images[:, :2].amin((2, 3)).tolist() == [[k % 256, k // 256] for k in places]


@pytest.mark.parametrize("form", ["official", "archive", "torchvision"])
def test_traffic_signs(tmp_path, form):
    order = sorted(SIGNS.splits)
    within = "Training" if form == "torchvision" else "Final_Training/Images"
    files = {f"GTSRB/{within}/{k:05d}/00000_{i:05d}.ppm": shade(k) for k in range(43) for i in range(2)}
    files |= {f"GTSRB/{within}/00000/GT-00000.csv": b"x", "GTSRB/Readme-Images.txt": b"x"}
    if form == "official":
        files["GTSRB/Training/00000/00000_00000.ppm"] = shade(0)  # torchvision's beside it: the same image once more
    if form == "archive":
        with zipfile.ZipFile(tmp_path / "GTSRB_Final_Training_Images.zip", "w") as made:
            for name, raw in files.items():
                made.writestr(name, raw)
    else:
        write(tmp_path / ("gtsrb" if form == "torchvision" else ""), files)
    data = TrafficSign(str(tmp_path), str(tmp_path / "cache"), 8)
    without_training_classes(data, "traffic_sign", order, 2, ("test",))
    assert data.load("test").note.startswith("86 images instead of 39,209")
    if form == "official":
        write(tmp_path, {"GTSRB/Final_Training/Images/00043/0.ppm": shade(1)})
        with pytest.raises(UserError, match="hold its 43 signs: 00043 does not belong to German traffic signs"):
            TrafficSign(str(tmp_path), str(tmp_path / "other"), 8).load("test")


def coco(root: Path) -> dict[str, list]:
    """Write a photograph a kind of object, 20x20, with two objects of 10x10 and one of no pixels."""
    order = sorted(OBJECTS.splits)
    held: dict[str, list] = {"categories": [], "images": [], "annotations": []}
    for k, name in enumerate(order):
        page = Image.new("RGB", (20, 20), "white")
        page.paste((k % 256, k // 256, 9), (0, 0, 18, 20))
        raw = io.BytesIO()
        page.save(raw, "PNG")
        write(root, {f"train2017/{k:012d}.jpg": raw.getvalue()})
        held["categories"].append({"id": 100 + k, "name": name})
        held["images"].append({"id": k, "file_name": f"{k:012d}.jpg", "width": 20, "height": 20})
        for box in ([0, 0, 10, 10], [3.5, 4, 10, 10], [25, 4, 2, 2]):
            held["annotations"].append({"image_id": k, "category_id": 100 + k, "bbox": box})
    return held


@pytest.mark.parametrize("where", ["", "annotations"])
def test_objects_are_cut_out_a_fifth_larger(tmp_path, where):
    order, held = sorted(OBJECTS.splits), coco(tmp_path)
    write(tmp_path / where, {"instances_train2017.json": json.dumps(held).encode()})
    data = MSCOCO(str(tmp_path), str(tmp_path / "cache"), 8)
    without_training_classes(data, "mscoco", order, 2, ("test", "val"))
    assert data.load("val").files[:2] == [f"train2017/{order.index('backpack'):012d}.jpg#{box}" for box in BOXES]
    if where:
        return
    held["images"][5]["file_name"] = "../evil.jpg"
    write(tmp_path, {"instances_train2017.json": json.dumps(held).encode()})
    with pytest.raises(UserError, match=r"names a file outside of train2017/ \('\.\./evil\.jpg'\)"):
        MSCOCO(str(tmp_path), str(tmp_path / "cache"), 8).load("val")
    held["images"][5]["file_name"] = "gone.jpg"
    write(tmp_path, {"instances_train2017.json": json.dumps(held).encode()})
    with pytest.raises(UserError, match=r"train2017/gone\.jpg is missing \(1 such\): unpack train2017\.zip"):
        MSCOCO(str(tmp_path), str(tmp_path / "cache"), 8).load("val")
    write(tmp_path, {"instances_train2017.json": b'{"categories": [{}]}'})
    with pytest.raises(UserError, match=r"instances_train2017\.json does not list categories, images and annotations"):
        MSCOCO(str(tmp_path), str(tmp_path / "cache"), 8).load("val")


BOXES = ("0,0,11,11", "2,2,15,15")  # by hand: -1 to 11 and (2.5, 3) to (14.5, 15), less half a pixel, the last one in


def test_boxes_end_where_their_photograph_does():
    assert larger([10, 10, 10, 10], 20, 20) == (8, 8, 20, 20)  # 9 - 0.5 = 8.5 to the even 8
    left, _, right, _ = larger([25, 4, 2, 2], 20, 20)
    assert left >= right


@pytest.mark.parametrize("where", ["", "train", "ILSVRC/Data/CLS-LOC/train"])
def test_imagenet_leaves_out_what_cub_and_caltech_have(tmp_path, where):
    order = sorted(IMAGENET.splits)
    within = f"{where}/" if where else ""
    files = {f"{within}{name}/{name}_1.JPEG": shade(k) for k, name in enumerate(order)}
    files[f"{within}n01531178/n01531178_12730.JPEG"] = shade(999)  # a goldfinch of CUB's
    files[f"val/{order[0]}/ILSVRC2012_val_00000001.JPEG"] = shade(7)  # as many sort it
    write(tmp_path, files)
    data = ILSVRC(str(tmp_path), str(tmp_path / "cache"), 8)
    assert [len(data.load(name).ids) for name in SPLITS] == [712, 158, 130]
    for name in SPLITS:
        split = data.load(name)
        assert sorted(split.ids) == [f"imagenet:{wnid}" for wnid in class_list(f"ilsvrc_metadataset_{name}")]
        places = [order.index(each.partition(":")[2]) for each in split.ids]
        assert split.images[:, :2, 4, 4].tolist() == [[k % 256, k // 256] for k in places]
        assert split.note.startswith("1,000 images instead of 1,280,764")
        assert split.files[0].startswith(f"{within}n")


def test_downloads_are_torchvisions_and_what_has_none_says_where_to_go(tmp_path):
    sets = torchvision.datasets
    (file,) = TEXTURES.downloads
    assert (file.urls[0], file.checksum) == (sets.DTD._URL, f"md5:{sets.DTD._MD5}")
    (file,) = AIRCRAFT.downloads
    assert file.urls[0] == sets.FGVCAircraft._URL
    for file, part in zip(FLOWERS.downloads, ("image", "label"), strict=True):
        assert file.urls[0].startswith(sets.Flowers102._download_url_prefix)
        assert (file.name, file.checksum.removeprefix("md5:")) == sets.Flowers102._file_dict[part]
    where = {
        Fungi: "fungi_train_val.tgz",
        QuickDraw: "gs://quickdraw_dataset/full/numpy_bitmap/",
        ILSVRC: "ILSVRC/Data/CLS-LOC/train/",
        MSCOCO: "train2017.zip",
        TrafficSign: "GTSRB_Final_Training_Images.zip",
    }
    for kind, word in where.items():
        with pytest.raises(UserError, match=r"has to be given once, for") as caught:
            kind(None, str(tmp_path)).load("train")
        assert word in str(caught.value)
