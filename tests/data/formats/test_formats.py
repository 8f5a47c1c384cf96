"""Only the formats that are meant are opened, by content: never a program such as Ghostscript for an EPS."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import metalab
from metalab.data.formats.image_decode import decode, opened
from tests.data.folder import load_named, tree

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 20 20 rectfill\n%%EOF\n"
MEANT = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "MPO"]


@pytest.fixture
def programs(monkeypatch):
    """Return what programs are started: none may be."""
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: started.append(words))
    monkeypatch.setattr(subprocess, "check_output", lambda *words, **_: started.append(words))
    return started


def test_an_eps_named_png_starts_no_ghostscript_and_is_named(root, programs, monkeypatch, caplog):
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")  # as where it is installed
    tree(root)
    (root / "class00" / "x.png").write_bytes(EPS)
    assert load_named(root)["class00"] == 5
    assert "x.png (UnidentifiedImageError" in caplog.text
    assert programs == []


@pytest.mark.parametrize("form", MEANT)
def test_a_meant_format_is_opened_by_its_content_whatever_its_name(tmp_path, form):
    path = tmp_path / "x.png"
    image = Image.fromarray(np.full((20, 20, 3), 200, dtype=np.uint8))
    try:
        image.save(path, form)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {form}")
    assert np.abs(decode(path, 8, 3).pixels.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("form", ["ICO", "PCX", "SGI", "IM", "TGA", "SPIDER", "MSP", "DDS"])
def test_another_format_is_not_opened_under_a_meant_name(tmp_path, form):
    path = tmp_path / "x.png"
    image = Image.new("1" if form == "MSP" else "F" if form == "SPIDER" else "RGB", (32, 32))
    image.save(tmp_path / "x.other", form)  # SPIDER makes a file's ending its own, for all images that are saved later
    (tmp_path / "x.other").rename(path)
    with pytest.raises(OSError, match="cannot identify image file"):
        opened(path)


def test_a_tga_which_has_no_mark_is_known_by_its_name(tmp_path):
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "x.tga")
    assert (decode(tmp_path / "x.tga", 8, 3).pixels == 9).all()


def test_nothing_else_opens_images():
    package = Path(metalab.__file__).parent
    found = [file.name for file in package.rglob("*.py") if "Image.open" in file.read_text(encoding="utf-8")]
    assert found == ["image_decode.py"]
