"""tieredImageNet: class folders and the authors' pickles, whose words are made wnids again, give the same classes."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.class_lists import SPLITS, class_list
from metalab.data.datasets.photos.tieredimagenet import OFFICIAL, TieredImageNet

WNIDS = sorted(OFFICIAL)


def png(wnid: str) -> bytes:
    raw = io.BytesIO()
    k = WNIDS.index(wnid)
    Image.new("RGB", (8, 8), (k % 256, k // 256, 7)).save(raw, "PNG")
    return raw.getvalue()


def folders(root: Path) -> None:
    for wnid, split in OFFICIAL.items():
        (root / split / wnid).mkdir(parents=True)
        (root / split / wnid / "a.png").write_bytes(png(wnid))


def word(wnid: str) -> str:
    """Return the class's words; those of one training and one test class are the same, as a few of ImageNet's are."""
    return (
        "crane"
        if wnid in (class_list("tieredimagenet_train")[0], class_list("tieredimagenet_test")[0])
        else f"a {wnid}"
    )


def pickles(root: Path) -> None:
    root = root / "tiered-imagenet"
    root.mkdir(parents=True)
    (root / "synsets.txt").write_text("\n".join(["n00000000", *WNIDS]) + "\n")
    (root / "class_names.txt").write_text("\n".join(["nothing", *map(word, WNIDS)]) + "\n")
    for split in SPLITS:
        wnids = class_list(f"tieredimagenet_{split}")[::-1]
        held = {
            "label_specific": np.arange(len(wnids), dtype=np.int32),
            "label_specific_str": [word(wnid) for wnid in wnids],
        }
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps(held, 2))
        images = [np.frombuffer(png(wnid), np.uint8)[:, None] for wnid in wnids]  # as OpenCV's imencode gives it
        (root / f"{split}_images_png.pkl").write_bytes(pickle.dumps(images, 2))


@pytest.mark.parametrize("lay_out", [folders, pickles])
def test_both_layouts_give_the_same_classes_and_images(tmp_path, lay_out):
    lay_out(tmp_path / "source")
    data = TieredImageNet(str(tmp_path / "source"), str(tmp_path), size=8)
    for name in SPLITS:
        split = data.load(name)
        assert sorted(split.ids) == [f"imagenet:{wnid}" for wnid in class_list(f"tieredimagenet_{name}")]
        kinds = [WNIDS.index(each.removeprefix("imagenet:")) for each in split.ids]
        assert split.images[:, :2, 3, 3].tolist() == [[k % 256, k // 256] for k in kinds]
    assert split.note == "608 images instead of 779,165"


def test_what_the_pickles_lack_or_confuse_is_named(tmp_path):
    pickles(tmp_path)
    root = tmp_path / "tiered-imagenet"
    (root / "synsets.txt").rename(root / "elsewhere.txt")
    with pytest.raises(UserError, match=r"has train_labels\.pkl, but not synsets\.txt: all are needed"):
        TieredImageNet(str(tmp_path), str(tmp_path / "cache")).load("train")
    (root / "synsets.txt").write_text(
        (root / "elsewhere.txt").read_text().replace(class_list("tieredimagenet_train")[3], "n00000001")
    )
    with pytest.raises(UserError, match=r"_labels\.pkl: class 'a n\d+' \(1 such\) is the name of 0 train classes in"):
        TieredImageNet(str(tmp_path), str(tmp_path / "cache")).load("train")
    (root / "synsets.txt").write_text((root / "elsewhere.txt").read_text())
    (root / "val_images_png.pkl").write_bytes(pickle.dumps([1], 2))
    with pytest.raises(UserError, match=r"val_images_png\.pkl does not hold the 97 images of val_labels\.pkl"):
        TieredImageNet(str(tmp_path), str(tmp_path / "cache")).load("train")
    (root / "val_labels.pkl").write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    with pytest.raises(UserError, match=r"it asks for os\.system, which no array needs"):
        TieredImageNet(str(tmp_path), str(tmp_path / "cache")).load("train")


def test_without_root_the_layouts_are_named(tmp_path):
    with pytest.raises(
        UserError, match=r"tieredImageNet has to be given once.*\n.*\n.*train/n01530575.*\n.*train_labels"
    ):
        TieredImageNet(None, str(tmp_path)).load("train")
