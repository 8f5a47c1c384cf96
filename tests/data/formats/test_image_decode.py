"""Images of any mode become the same squares of uint8."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from metalab.data.formats.image_decode import decode, digest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image"


def grey(values):
    return Image.fromarray(np.array(values, dtype=np.uint8).repeat(8, 0).repeat(8, 1))


def halves(image):
    """Return the values of the left and the right half, colours first."""
    return image[:, :, 4].mean(1).round().tolist(), image[:, :, -4].mean(1).round().tolist()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_the_same_black_and_white(path, mode, channels):
    image = grey([[0, 255]])
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        image = image if mode == "I;16" else image.convert("I")
    elif mode == "F":
        image = Image.fromarray(np.asarray(image).astype(np.float32) / 255)
    else:
        image = image.convert("RGB").convert(mode)
    assert image.mode == mode
    image.save(path, "TIFF" if mode in ("CMYK", "F") else "PNG")
    found = decode(path, 16, channels).pixels
    assert found.shape == (channels, 16, 16)
    assert found.dtype == np.uint8
    assert halves(found) == ([0] * channels, [255] * channels)


def test_16_bits_are_scaled_not_cut_off(path):
    Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16)).save(path, "PNG")
    assert (decode(path, 8, 1).pixels == 128).all()


def test_a_float_image_out_of_range_is_refused(path):
    Image.fromarray(np.array([[0, 3000]], dtype=np.float32)).save(path, "TIFF")
    with pytest.raises(ValueError, match=r"mode F with values from 0 to 3000, expected 0\.\.1"):
        decode(path, 8, 1)


def test_what_is_transparent_becomes_white(path):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 8, 16))
    image.save(path, "PNG")
    assert halves(decode(path, 16, 3).pixels) == ([255, 0, 0], [255, 255, 255])
    image.convert("RGB").quantize(4).save(path, "PNG", transparency=0)  # a palette with a transparent entry
    assert 255 in decode(path, 16, 3).pixels


def test_exif_orientation(path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    grey([[0, 255]]).save(path, "PNG", exif=exif)
    assert halves(decode(path, 16, 1).pixels) == ([255], [0])


def test_every_exif_orientation_is_pillows_and_tags_that_cannot_be_written_again_do_no_harm(path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        image.save(path, "PNG", exif=exif)
        upright = ImageOps.exif_transpose(Image.open(path)).resize((9, 9), Image.Resampling.BICUBIC)
        assert np.array_equal(decode(path, 9, 3).pixels.transpose(1, 2, 0), np.asarray(upright))
    tags = struct.pack("<HHIHHHHI4s", 0x0112, 3, 1, 6, 0, 0x0103, 7, 4, b"abcd")  # the second of a wrong type
    image.save(path, "JPEG", exif=b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2) + tags + bytes(4))
    with Image.open(path) as opened:
        turned = opened.transpose(Image.Transpose.ROTATE_270).resize((9, 9), Image.Resampling.BICUBIC)
    assert np.array_equal(decode(path, 9, 3).pixels.transpose(1, 2, 0), np.asarray(turned))


def test_any_size_is_stretched(path):
    image = Image.new("L", (300, 20))
    image.paste(255, (150, 0, 300, 20))
    image.save(path, "PNG")
    assert halves(decode(path, 84, 3).pixels) == ([0] * 3, [255] * 3)
    Image.new("L", (3000, 4000), 200).save(path, "JPEG")
    assert np.abs(decode(path, 20, 1).pixels.astype(int) - 200).max() <= 2


def test_the_digest_names_the_content(path, tmp_path):
    grey([[0, 255], [9, 0]]).save(path, "PNG")
    digest = decode(path, 84, 3).digest
    assert digest == decode(path, 28, 1).digest
    grey([[0, 255], [9, 0]]).save(tmp_path / "other", "BMP")
    assert decode(tmp_path / "other", 84, 3).digest == digest
    grey([[0, 255], [12, 0]]).save(path, "PNG")
    assert decode(path, 84, 3).digest != digest


@pytest.mark.parametrize("kind", ["jpeg", "large", "turned", "clear", "palette", "deep"])
def test_an_opened_image_has_the_digest_of_its_file(path, kind):
    noise = np.random.default_rng(0).integers(
        0, 256, (2200, 2100, 3) if kind == "large" else (60, 50, 3), dtype=np.uint8
    )
    image, form, more = Image.fromarray(noise), "PNG", {}
    if kind in ("jpeg", "large"):
        form = "JPEG"
    elif kind == "turned":
        form, exif = "JPEG", Image.Exif()
        exif[0x0112] = 6  # orientation
        more = {"exif": exif}
    elif kind == "clear":
        image.putalpha(Image.fromarray(noise[..., 0]))
    elif kind == "palette":
        image = image.convert("P")
    elif kind == "deep":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
    image.save(path, form, **more)
    opened = Image.open(path)
    opened.load()
    assert digest(opened, lambda: Image.open(path)) == decode(path, 20, 3).digest
