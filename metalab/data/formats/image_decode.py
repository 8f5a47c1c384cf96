"""One image file of any mode -> a square of uint8 pixels, and the digests that name its content."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile

from metalab.core.errors import UserError
from metalab.core.interfaces import Interpolation

PHOTOS = {".avif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".webp"}
EXTENSIONS = PHOTOS | {".bmp", ".gif", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff"}
# Pillow's names of what EXTENSIONS mean. Its other formats are not opened, whatever a file is called: an EPS would be
# handed to Ghostscript, a program that runs what the file says.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
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


class DecodedImage(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  # uint8 [C,size,size]
    digest: str  # sha256 of the image at 32x32 RGB of 8 bits: the same for every size and number of channels
    exact: str = ""  # sha256 of all its pixels, at full size and depth
    deep: bool = False  # its values are deeper than 8 bits
    floats: bool = False  # and are floats
    lossy: bool = False  # and 8 bits do not hold them: the digest has lost some
    largest: float = 0.0  # of them, as they are in the file: whole numbers, or 0..1
    halved: bool = False  # its 16 bits a colour were read as the higher 8, which is all that Pillow gives


def opened(source: Path | IO[bytes]) -> ImageFile.ImageFile:
    """Return an image that is not yet decoded, of one of FORMATS by its content, or of TGA, which has no mark, by name.

    Raises OSError on what is none of these.
    """
    named = isinstance(source, Path) and source.suffix.lower() == ".tga"
    return Image.open(source, formats=[*_formats(), *(["TGA"] if named else [])])


def _formats() -> tuple[str, ...]:
    Image.init()  # loads Pillow's formats once
    return tuple(each for each in FORMATS if each in Image.OPEN)  # a Pillow of some years has no AVIF


def decode(
    path: Path,
    size: int,
    channels: int,
    depth: int = 16,
    resize: int | None = None,
    interpolation: Interpolation = "bicubic",
) -> DecodedImage:
    """Return the image in `path`, upright by its EXIF tag and made a square, in 3 channels (RGB) or 1 (grey).

    The square is the whole image, stretched, or, where `resize` says how many pixels the shorter side is made first,
    its centre. What is transparent becomes white, of an animation the first frame is taken, integers deeper than 8 bits
    are read as 0..2^depth-1, and floats as 0..1. Raises whatever Pillow raises on a file it cannot read, ValueError on
    values outside of 0..65535 or 0..1, and UserError on values that are deeper than `depth`.
    """
    with opened(path) as image:
        image.draft(None, (MOST, MOST))  # a large JPEG is decoded at 1/2, 1/4 or 1/8: much faster, and plenty
        halved = image.mode.startswith("RGB") and any(";16" in str(tile[3]) for tile in image.tile)
        turned = _turned(image)
        deep = _deep(turned)
        shown = plain = _rgb(turned if deep is None else _eight_bit(deep, 16))
    if deep is not None and deep.dtype == np.uint16 and depth < 16:
        if deep.max() >= 2**depth:
            raise UserError(
                f"data.depth={depth}: {path} has values up to {deep.max()}, and {depth} bits end at {2**depth - 1}: "
                "type data.depth=auto, or data.depth=16"
            )
        shown = _rgb(_eight_bit(deep, depth))
    resample = Image.Resampling[interpolation.upper()]
    shown = shown.convert("RGB" if channels == 3 else "L")
    resized = shown.resize((size, size), resample) if resize is None else _centre(shown, size, resize, resample)
    pixels = np.ascontiguousarray(np.asarray(resized).reshape(size, size, channels).transpose(2, 0, 1))
    if deep is None:
        return DecodedImage(pixels, _digest(plain), _exact(plain.size, plain.tobytes()), halved=halved)
    exact, floats = _exact(turned.size, deep.tobytes()), deep.dtype != np.uint16
    return DecodedImage(pixels, _digest(plain), exact, True, floats, _lost(deep), float(deep.max()))


def _centre(image: Image.Image, size: int, resize: int, resample: Image.Resampling) -> Image.Image:
    """Return the centre of an image whose shorter side was made `resize`, rounded as torchvision's transforms round.

    ValueError where the longer side would be beyond what Pillow takes for an attack.
    """
    width, height = (int(resize * side / min(image.size)) for side in image.size)
    if width * height > (Image.MAX_IMAGE_PIXELS or 2**26):
        raise ValueError(f"{image.size[0]}x{image.size[1]} is too long a strip for a shorter side of {resize} pixels")
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), resample).crop((left, top, left + size, top + size))


def largest(path: Path) -> int:
    """Return the largest value of an image of whole numbers deeper than 8 bits; 0: it is another, or cannot be read."""
    try:
        with opened(path) as image:
            if not image.mode.startswith("I"):
                return 0
            values = _deep(image)
            return 0 if values is None else int(values.max())
    except Exception:  # Pillow's readers raise anything on a broken file; decode will raise it again, to be told
        return 0


def digest(image: Image.Image, again: Callable[[], Image.Image]) -> str:
    """Return the digest that `decode` gives the same file; `again` opens it anew: a large JPEG is read otherwise."""
    if min(image.size) >= 2 * MOST:
        image = again()
        image.draft(None, (MOST, MOST))
    turned = _turned(image)
    deep = _deep(turned)
    return _digest(_rgb(turned if deep is None else _eight_bit(deep, 16)))


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.resize((32, 32), Image.Resampling.BOX).tobytes()).hexdigest()


def _exact(size: tuple[int, int], pixels: bytes) -> str:
    return hashlib.sha256(f"{size[0]}x{size[1]} {len(pixels)}\n".encode() + pixels).hexdigest()


def _turned(image: Image.Image) -> Image.Image:
    """Return the image upright by its EXIF tag.

    Pillow's own exif_transpose writes the tags anew, which fails on files of which it can read them.
    """
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits a channel in RGB, white where it is transparent."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _deep(image: Image.Image) -> np.ndarray | None:
    """Return the values of an image deeper than 8 bits, uint16 or float32 [H,W]; None: it is not.

    ValueError where they are not 0..65535, or for floats 0..1.
    """
    if not image.mode.startswith(("I", "F")):
        return None
    values, most = np.asarray(image), 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= most):  # false for nan, too
        raise ValueError(
            f"mode {image.mode} with values from {values.min():g} to {values.max():g}, expected 0..{most:g}"
        )
    return np.ascontiguousarray(values, dtype=np.float32 if image.mode == "F" else np.uint16)


def _eight_bit(values: np.ndarray, depth: int) -> Image.Image:
    """Return uint16 values of 0..2^depth-1, or floats of 0..1, as 8 bits: Pillow would cut all above 255 off."""
    most = 2.0**depth - 1 if values.dtype == np.uint16 else 1.0
    return Image.fromarray((values.astype(np.float64) * (255 / most)).round().astype(np.uint8))


def _lost(values: np.ndarray) -> bool:
    """Return whether 8 bits of the full range, 0..65535 or 0..1, do not hold these values."""
    if values.dtype == np.uint16:
        return bool((values % 257).any())
    fine = values.astype(np.float64) * 255
    return bool(np.abs(fine - fine.round()).max() > 1e-3)
