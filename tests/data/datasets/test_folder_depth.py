"""16-bit files that use 8, 10, 12 or 14 of their bits: nothing is lost in silence, and no two images become one."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.identity.class_ids import seen_classes, training_ids
from tests.data.folder import SPLITS, folder, load, refusal


def deep(path, seed, most, low=0):
    """Write a 16-bit picture of noise with values of low..most."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(low, most + 1, (16, 16), dtype=np.uint16)
    values[0, 0] = most
    Image.fromarray(values).save(path)


def deep_tree(root, most, classes=6, images=3, low=0):
    for c in range(classes):
        for i in range(images):
            deep(root / f"class{c}" / f"{i}.png", 100 * c + i, most, low)


def levels(split) -> int:
    return len(np.unique(split.images.numpy()))


@pytest.mark.parametrize(("most", "depth", "left"), [(255, 8, 2), (1023, 10, 5), (4095, 12, 17), (16383, 14, 65)])
def test_few_bits_of_16_keep_their_grey_levels(root, most, depth, left):
    deep_tree(root, most)
    before = folder(root, size=16, channels=1).load("train")
    after = folder(root, size=16, channels=1, depth="auto").load("train")
    assert levels(before) <= left
    assert levels(after) > 200
    assert f"16-bit images have values up to {most} of 65535, which leaves {left} of 256" in before.note or depth == 14
    assert after.note == f"16-bit images are read as {depth} bits, for their values end at {most}"
    given = folder(root, size=16, channels=1, depth=depth).load("train")
    assert given.note == ""
    assert (given.images == after.images).all()
    assert after.images.max() == 255


def test_all_16_bits_are_read_as_before(root):
    deep_tree(root, 65535)
    before, after = (folder(root, size=16, channels=1, depth=depth).load("train") for depth in (None, "auto"))
    assert (before.images == after.images).all()
    assert (before.note, after.note) == ("", "")


def test_a_folder_has_one_depth_whatever_a_single_image_uses(root):
    deep_tree(root, 900)
    deep(root / "class0" / "0.png", 0, 4000)
    split = folder(root, size=16, channels=1, depth="auto").load("train")
    dim = [split.images[i].max() for i, file in enumerate(split.files) if not file.startswith("class0/0")]
    assert max(dim) == round(900 * 255 / 4095)


def test_two_classes_of_dim_images_are_not_taken_for_one(root):
    deep_tree(root, 100, low=90)  # at 8 bits of 16 each is black
    assert "hold the same images" in refusal(root)
    splits = load(root, depth="auto", size=16, channels=1)
    assert len({class_id for split in splits.values() for class_id in split.ids}) == 6
    assert len({image for split in splits.values() for image in split.image_ids}) == 18


def test_a_run_of_an_older_version_knows_its_images_again(root):
    deep_tree(root, 4095)
    old = folder(root).load("train")
    new = folder(root, depth="auto")
    carried = {*old.ids, *(f"image:{image.partition('+')[2]}" for image in old.image_ids)}  # as it wrote them
    assert seen_classes(new.load("train"), carried) == sorted(old.names)
    assert seen_classes(new.load("test"), carried) == []
    assert seen_classes(folder(root, depth=12).load("train"), training_ids(new.load("train"))) == sorted(old.names)


def test_a_value_beyond_the_depth_that_is_given_is_an_error(root):
    deep_tree(root, 4095)
    with pytest.raises(UserError, match=r"data\.depth=10: .*png has values up to 4095, and 10 bits end at 1023: type "):
        folder(root, depth=10).load("train")


def test_floats_of_a_small_range_are_told(root):
    for c in range(6):
        for i in range(3):
            path = root / f"class{c}" / f"{i}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(10 * c + i).random((16, 16), dtype=np.float32) / 50
            Image.fromarray(values).save(path)
    splits = load(root, depth="auto")
    assert splits["train"].note.startswith("images of floats have values up to 0.02 of 1, which leaves 6 of 256 grey")
    assert len({image for split in splits.values() for image in split.image_ids}) == 18


def test_sixteen_bits_a_colour_are_told(root):
    for c in range(6):
        path = root / f"class{c}" / "0.png"
        path.parent.mkdir(parents=True)
        values = np.random.default_rng(c).integers(0, 65536, (8, 8, 3), dtype=np.uint16)
        path.write_bytes(png16(values))
    split = folder(root, depth="auto", size=8).load("train")
    assert split.note == "6 images of 16 bits a colour are read at the higher 8 of them"
    values = np.random.default_rng(int(split.names[0][-1])).integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    assert (split.images[0].permute(1, 2, 0).numpy() == values >> 8).all()


def png16(values) -> bytes:
    """Return uint16 [H,W,3] as a PNG, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_eight_bit_images_are_what_they_were(root):
    deep_tree(root, 65535, classes=3)
    for c in range(3, 6):
        for i in range(3):
            path = root / f"class{c}" / f"{i}.png"
            path.parent.mkdir() if i == 0 else None
            Image.fromarray(np.random.default_rng(c * 10 + i).integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    ids = {image for name in SPLITS for image in load(root, depth="auto")[name].image_ids}
    assert sum("+" in image for image in ids) == 9
