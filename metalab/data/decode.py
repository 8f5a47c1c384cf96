"""One image file of any mode -> a square of uint8 pixels, and a digest that names its content."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

PHOTOS = {".avif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".webp"}
EXTENSIONS = PHOTOS | {".bmp", ".gif", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff"}
TURNS = {  # by the tag's value
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MOST = 1024  # pixels of the shorter side that are plenty


class Picture(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  # uint8 [C,size,size]
    digest: str  # sha256 of the image at 32x32 RGB: the same for every size and number of channels


def decode(path: Path, size: int, channels: int) -> Picture:
    """Return the image in `path`, upright by its EXIF tag and stretched to a square, in 3 channels (RGB) or 1 (grey).

    What is transparent becomes white, integers deeper than 8 bits are read as 16 bits, floats as 0..1, and of an
    animation the first frame is taken. Raises whatever Pillow raises on a file it cannot read, and ValueError on
    values out of those ranges.
    """
    with Image.open(path) as opened:
        opened.draft(None, (MOST, MOST))  # a large JPEG is decoded at 1/2, 1/4 or 1/8: much faster, and plenty
        image = _upright(opened)
    resized = image.convert("RGB" if channels == 3 else "L").resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized).reshape(size, size, channels).transpose(2, 0, 1)
    return Picture(np.ascontiguousarray(pixels), _digest(image))


def digest(image: Image.Image, again: Callable[[], Image.Image]) -> str:
    """Return the digest that `decode` gives the same file; `again` opens it anew: a large JPEG is read otherwise."""
    if min(image.size) >= 2 * MOST:
        image = again()
        image.draft(None, (MOST, MOST))
    return _digest(_upright(image))


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.resize((32, 32), Image.Resampling.BOX).tobytes()).hexdigest()


def _upright(opened: Image.Image) -> Image.Image:
    """Return an image of any mode in RGB, upright by its EXIF tag, white where it is transparent.

    Pillow's own exif_transpose writes the tags anew, which fails on files of which it can read them.
    """
    turn = TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    image = _eight_bit(opened if turn is None else opened.transpose(turn))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits a channel: Pillow's own conversion would cut all above 255 off."""
    if not image.mode.startswith(("I", "F")):
        return image
    values, most = np.asarray(image, dtype=np.float64), 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= most):  # false for nan, too
        raise ValueError(
            f"mode {image.mode} with values from {values.min():g} to {values.max():g}, expected 0..{most:g}"
        )
    return Image.fromarray((values * (255 / most)).round().astype(np.uint8))
