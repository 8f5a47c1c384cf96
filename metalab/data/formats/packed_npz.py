"""Packed npz files: encoded images one after another in one array, with their offsets, labels and names."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from metalab.core.errors import UserError
from metalab.data.formats.image_decode import opened
from metalab.data.formats.layouts import Layout, SourceImage


def packed(root: Path, sized: bool = False) -> Layout | None:
    """Recognise npz files of JPEG or WebP files one after another: blob, offsets [N+1], labels [N], class_names.

    Images are called as `files` [N] has it; where that is missing, train/ARCHIVE/NUMBER, or test/ARCHIVE/NUMBER where
    `is_test` [N] is true. sized: whether the note on the re-encoding has the size of the first image, for copies that
    are smaller than the published images.
    """
    keys = {"blob", "offsets", "labels", "class_names"}
    archives = [path for path in sorted(root.glob("*.npz")) if keys <= set(_npz(path, []))]
    if not archives:
        return None

    def classes() -> dict[str, str | None]:
        return {str(wnid): None for path in archives for wnid in _npz(path, ["class_names"])["class_names"]}

    def pictures() -> Iterator[SourceImage]:
        for path in archives:
            z = _npz(path, [*keys, "class_words", "files", "is_test"])
            blob = _blob(path, z)
            words = z["class_words"] if z["class_words"] is not None else z["class_names"]
            for i in np.argsort(z["labels"], kind="stable"):
                raw = blob[z["offsets"][i] : z["offsets"][i + 1]].tobytes()
                label = z["labels"][i]
                opens = partial(_opened, raw)
                yield SourceImage(str(z["class_names"][label]), str(words[label]), _file(path, z, i), opens)

    total = sum(_counted(path) for path in archives)
    z = _npz(archives[-1], ["blob", "offsets"])
    first = _blob(archives[-1], z)[z["offsets"][0] : z["offsets"][1]].tobytes()
    return Layout("packed", archives, classes, pictures, total, _reencoded(first, sized))


def _file(path: Path, z: dict[str, Any], i: int) -> str:
    """Return what image i of a packed file is called."""
    if z["files"] is not None:
        return f"{path.name}/{z['files'][i]}"
    tested = z["is_test"] is not None and z["is_test"][i]
    return f"{'test' if tested else 'train'}/{path.name}/{i}"


def _counted(path: Path) -> int:
    """Return how many images a packed file has; UserError where its arrays do not fit together."""
    z = _npz(path, ["offsets", "labels", "class_names", "class_words", "files", "is_test"])
    classes, offsets, labels = z["class_names"], z["offsets"], z["labels"]
    words = z["class_words"] if z["class_words"] is not None else classes
    whole = all(each.ndim == 1 for each in (*z.values(), words) if each is not None)
    each_image = [z[key] for key in ("files", "is_test") if z[key] is not None]
    if (
        not whole
        or not len(labels)
        or len(offsets) != len(labels) + 1
        or any(len(e) != len(labels) for e in each_image)
    ):
        shapes = ", ".join(f"{key} {list(each.shape)}" for key, each in z.items() if each is not None)
        raise UserError(
            f"{path} has {shapes}; expected: labels [N], offsets [N+1], and files and is_test, where there, [N], "
            "N at least 1."
        )
    if labels.dtype.kind not in "ui" or not 0 <= labels.min() <= labels.max() < min(len(classes), len(words)):
        raise UserError(f"{path}: its labels must be whole numbers, at least 0 and below its {len(classes)} classes.")
    if offsets.dtype.kind not in "ui" or offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any():
        raise UserError(f"{path}: its offsets must be whole numbers, none below the one before it.")
    return len(labels)


def _blob(path: Path, z: dict[str, Any]) -> np.ndarray:
    """Return the bytes of all images; UserError where they are fewer than the offsets say."""
    blob, end = z["blob"], z["offsets"][-1]
    if blob.dtype != np.uint8 or blob.ndim != 1 or len(blob) < end:
        raise UserError(f"{path}: blob is {blob.dtype} {list(blob.shape)}, expected: uint8 [{end}]. Copy it anew.")
    return blob


def _opened(raw: bytes) -> Image.Image:
    return opened(io.BytesIO(raw))


def _reencoded(raw: bytes, sized: bool) -> str:
    """Say how an image was encoded; a packed copy is not the original."""
    size = ""
    if sized:
        try:
            with _opened(raw) as image:
                size = f", {image.width}x{image.height}"
        except OSError:  # decoding will name it
            pass
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":  # which holds no quality
        return f"re-encoded{size}, WebP"
    quality = _jpeg_quality(raw)
    return f"re-encoded{size}, JPEG q{quality}" if quality else f"re-encoded{size}, packed copy"


def _jpeg_quality(raw: bytes) -> int | None:
    """Return by which quality a JPEG was made, found by its quantisation tables; None: by none of Pillow's."""
    try:
        tables = JpegImageFile(io.BytesIO(raw)).quantization
    except (SyntaxError, OSError):  # no JPEG; where it is no image at all, decoding will name it
        return None
    for quality in range(1, 101):
        trial = io.BytesIO()
        Image.new("RGB", (8, 8)).save(trial, "JPEG", quality=quality)
        if JpegImageFile(io.BytesIO(trial.getvalue())).quantization == tables:
            return quality
    return None


def _npz(path: Path, keys: list[str]) -> dict[str, Any]:
    """Return these arrays of the file, None for what it lacks; with no keys, every name it has."""
    try:
        with np.load(path, allow_pickle=False) as z:
            return {key: z[key] if key in z.files else None for key in keys} if keys else dict.fromkeys(z.files)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no sound npz file ({error}). Copy it anew.") from error
