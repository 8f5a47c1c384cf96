"""Images resized and cropped at the centre as torchvision and timm prepare them for their weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision import models
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import InterpolationMode

from metalab.data.datasets.folder_store import Reading
from metalab.data.formats.image_decode import decode
from tests.data.folder import folder

SIZES = [(20, 14), (227, 227), (500, 375), (333, 500), (256, 300), (1200, 90)]  # width and height


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Smooth pictures of several shapes."""
    made = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for width, height in SIZES:
        small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((width, height))
        paths.append(made / f"{width}x{height}.jpg")
        small.save(paths[-1], quality=95)
    return paths


def normalized(pixels: np.ndarray, mean: list[float], std: list[float]) -> Tensor:
    x = torch.from_numpy(pixels).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def off(path: Path, how: tuple[int, int, str], transform, mean, std) -> Tensor:
    """Return by how much each value differs from the transform's, in 255ths of the images' range."""
    size, resize, interpolation = how
    ours = normalized(decode(path, size, 3, 16, resize, interpolation).pixels, mean, std)  # type: ignore[arg-type]
    with Image.open(path) as image:
        theirs = transform(image.convert("RGB"))
    assert ours.shape == theirs.shape
    return (ours - theirs).abs() * torch.tensor(std)[:, None, None] * 255


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (224, 232), (84, 84), (15, 40)])
def test_the_pixels_are_those_of_torchvisions_transforms(mode, size, resize, photos):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    theirs = ImageClassification(crop_size=size, resize_size=resize, interpolation=InterpolationMode(mode))
    apart = [off(path, (size, resize, mode), theirs, mean, std) for path in photos]
    assert max(each.max() for each in apart) < 1e-3


@pytest.fixture(scope="module")
def real_photos(tmp_path_factory) -> list[Path]:
    """JPEG files of PACS, and some of them enlarged: theirs have 72 pixels."""
    if not (shared := os.environ.get("METALAB_SHARED_DATA")):
        pytest.skip("METALAB_SHARED_DATA names no folder with real images")
    with np.load(Path(shared) / "pacs" / "pacs72.npz") as held:
        blob, offsets = held["blob"], held["offsets"]
    folder, paths = tmp_path_factory.mktemp("pacs"), []
    for i in range(0, len(offsets) - 1, 1000):
        paths.append(folder / f"{i}.jpg")
        paths[-1].write_bytes(blob[offsets[i] : offsets[i + 1]].tobytes())
        with Image.open(paths[-1]) as image:
            larger = image.convert("RGB").resize((400 + i // 20, 377), Image.Resampling.LANCZOS)
        paths.append(folder / f"{i}_large.jpg")
        larger.save(paths[-1], quality=95)
    return paths


def test_real_photographs_are_prepared_as_torchvisions_weights_say(real_photos):
    entry = models.get_model_weights("mobilenet_v2")["IMAGENET1K_V1"]
    own = models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    what = (own.crop_size[0], own.resize_size[0], own.interpolation.value)
    assert what == (224, 256, "bilinear")
    apart = [off(path, what, entry.transforms(), own.mean, own.std) for path in real_photos]
    assert max(each.max() for each in apart) < 1e-3


def test_real_photographs_are_prepared_as_timms_transform_does(real_photos):
    for name in ("resnet18.a1_in1k", "vit_tiny_patch16_224", "efficientnet_lite0"):
        cfg = timm.get_pretrained_cfg(name)
        assert cfg is not None
        size = cfg.input_size[-1]
        given = {"input_size": cfg.input_size, "mean": cfg.mean, "std": cfg.std, "crop_pct": cfg.crop_pct}
        theirs = create_transform(**given, interpolation=cfg.interpolation, is_training=False)
        what = (size, int(size / cfg.crop_pct), cfg.interpolation)
        apart = [off(path, what, theirs, list(cfg.mean), list(cfg.std)) for path in real_photos]
        assert max(each.max() for each in apart) < 1e-3, name


def test_a_strip_that_would_fill_the_memory_is_an_error_of_its_file(tmp_path):
    Image.new("RGB", (20000, 4)).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match="20000x4 is too long a strip"):
        decode(tmp_path / "strip.png", 224, 3, 16, 256)


def test_a_store_of_an_older_version_is_known_by_what_it_was_known_by(root):
    assert Reading(84, 3, None).recipe() == Reading(84, 3, None, None, "bicubic").recipe()
    assert Reading(84, 3, None).recipe() == {"size": 84, "channels": 3, "depth": None}
    assert Reading(84, 3, 16, 96, "bilinear").recipe().keys() > {"resize", "interpolation"}
    assert folder(root)._how == folder(root, interpolation="bicubic")._how


def test_preparation_changes_the_pixels_and_no_id(photos):
    one = photos[2]
    stretched, cropped = decode(one, 32, 3), decode(one, 32, 3, 16, 36, "bilinear")
    assert stretched.digest == cropped.digest
    assert stretched.exact == cropped.exact
    assert not np.array_equal(stretched.pixels, cropped.pixels)
