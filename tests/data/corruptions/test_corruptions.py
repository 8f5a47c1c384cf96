"""The 15 corruptions against the authors' formulas in numpy and scipy, Pillow's JPEG and resize, and moments."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from metalab.data.corruptions import blur, jpeg, weather
from metalab.data.corruptions.base import Draws
from metalab.data.corruptions.build import KINDS, corrupted
from tests.data.corruptions import oracles

SIDES = (32, 224)


def generators(tasks: int = 1, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + t) for t in range(tasks)]


def drawn(seed: int = 0) -> Draws:
    return Draws(generators(seed=seed), torch.device("cpu"))


def photo(side: int, seed: int = 0) -> torch.Tensor:
    """An image [3,side,side] with a photograph's fall of the spectrum, and full contrast."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    size = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))[..., None]
    image = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) / np.maximum(size, 1 / side) ** 1.6, axes=(0, 1)).real
    shared = image @ np.full((3, 3), 0.25) + 0.25 * image  # colours go together
    low, high = np.quantile(shared, [0.01, 0.99])
    return torch.tensor(((shared - low) / (high - low)).clip(0, 1)).float().permute(2, 0, 1)


def array(x: torch.Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).double().numpy()


def made(kind: str, severity: int, x: torch.Tensor, seed: int = 0) -> np.ndarray:
    return array(corrupted(x[None, None], kind, severity, generators(seed=seed))[0, 0])


def close(found: np.ndarray, wanted: np.ndarray, most: float = 1e-5) -> None:
    np.testing.assert_allclose(found, wanted.clip(0, 1), rtol=0, atol=most)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_size_and_colour_stay_images_and_change(kind):
    for channels, height, width in ((1, 28, 28), (3, 84, 84), (3, 40, 52), (1, 9, 9)):
        x = torch.rand(2, 3, channels, height, width, generator=torch.Generator().manual_seed(0))
        for severity in (1, 5):
            y = corrupted(x, kind, severity, generators(2))
            assert y.shape == x.shape
            assert y.dtype == x.dtype
            assert ((y >= 0) & (y <= 1)).all()
            assert (y != x).any()
            assert torch.equal(y, corrupted(x, kind, severity, generators(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_does_not_depend_on_those_beside_it(kind):
    x = torch.rand(3, 2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for severity in (2, 5):
        together = corrupted(x, kind, severity, generators(3))
        for t in range(3):
            alone = corrupted(x[t : t + 1], kind, severity, generators(seed=t))
            torch.testing.assert_close(together[t : t + 1], alone, rtol=0, atol=1e-5)


def test_there_are_the_15_of_the_paper_in_four_families():
    families = [kind.family for kind in KINDS.values()]
    assert [families.count(name) for name in ("noise", "blur", "weather", "digital")] == [3, 4, 4, 4]
    assert all(len(kind.cifar) == len(kind.imagenet) == 5 for kind in KINDS.values())


def test_parameters_are_the_published_ones_and_lie_between_them_in_between():
    noise, jpeg_ = KINDS["gaussian_noise"], KINDS["jpeg_compression"]
    assert [noise.level(s, 28) for s in (1, 5)] == [(0.04,), (0.10,)]
    assert [noise.level(s, 448) for s in (1, 5)] == [(0.08,), (0.38,)]
    assert noise.level(5, round(32 * 7**0.5))[0] == pytest.approx(0.24, abs=1e-3)  # half of each at 84.7 pixels
    assert jpeg_.level(1, 64)[0] == pytest.approx(80 - 55 * np.log(2) / np.log(7))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_moments_of_its_distribution(side, severity):
    x = torch.full((1, 40, 1, side, side), 0.4)
    parameter = {k: KINDS[k].level(severity, side)[0] for k in ("gaussian_noise", "shot_noise", "impulse_noise")}
    shot = corrupted(x, "shot_noise", severity, generators())
    if parameter["shot_noise"] >= 50:  # nothing is clipped
        assert shot.mean().item() == pytest.approx(0.4, abs=0.002)
        assert shot.var().item() == pytest.approx(0.4 / parameter["shot_noise"], rel=0.05)
    assert (shot == 0).double().mean().item() == pytest.approx(np.exp(-0.4 * parameter["shot_noise"]), abs=0.005)
    if parameter["gaussian_noise"] <= 0.1:
        normal = corrupted(x, "gaussian_noise", severity, generators())
        assert normal.mean().item() == pytest.approx(0.4, abs=0.002)
        assert normal.std().item() == pytest.approx(parameter["gaussian_noise"], rel=0.03)
    impulse = corrupted(x, "impulse_noise", severity, generators())
    for value in (0, 1):
        assert (impulse == value).double().mean().item() == pytest.approx(parameter["impulse_noise"] / 2, rel=0.1)
    assert impulse.unique().tolist() == pytest.approx([0, 0.4, 1])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", [1, 4, 5])
def test_blurs_are_those_of_scipy(side, severity):
    x = photo(side)
    close(
        made("defocus_blur", severity, x), oracles.defocus_blur(array(x), *KINDS["defocus_blur"].level(severity, side))
    )
    close(made("zoom_blur", severity, x), oracles.zoom_blur(array(x), *KINDS["zoom_blur"].level(severity, side)))
    angle = drawn().uniform(-45, 45, 1).item()
    radius, sigma = KINDS["motion_blur"].level(severity, side)
    close(made("motion_blur", severity, x), oracles.motion_blur(array(x), radius, sigma, angle))


def test_motion_goes_in_every_direction():
    x = photo(32)
    for angle in range(-180, 180, 30):
        found = blur.filters.motion(x[None], 4, 3, torch.tensor([angle]))[0]
        close(array(found), oracles.motion_blur(array(x), 4, 3, angle))


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 3), (32, 5), (72, 3), (224, 2), (224, 5)])
def test_glass_is_what_the_loop_over_all_pixels_makes(side, severity):
    x, (sigma, delta, rounds) = photo(side), KINDS["glass_blur"].level(severity, side)
    delta, rounds = round(delta), round(rounds)
    moves = drawn().integers(-delta, delta, 1, rounds, side, side, 2)[0, 0].numpy()
    close(made("glass_blur", severity, x), oracles.glass_blur(array(x), sigma, delta, moves))


@pytest.mark.parametrize("side", SIDES)
def test_weather_is_that_of_the_formulas(side):
    x = photo(side)
    for severity in (1, 5):
        added = KINDS["brightness"].level(severity, side)[0]
        hsv = rgb_to_hsv(array(x))
        hsv[..., 2] = (hsv[..., 2] + added).clip(0, 1)
        close(made("brightness", severity, x), hsv_to_rgb(hsv))
        strength, decay = KINDS["fog"].level(severity, side)
        draws, most = drawn(), x.max().item()
        clouds = oracles.plasma(
            256 if side == 224 else 32, decay, lambda *a, d=draws: d.uniform(*a[:2], 1, *a[2:])[0, 0].numpy()
        )
        wanted = (array(x) + strength * clouds[:side, :side, None]) * most / (most + strength)
        close(made("fog", severity, x), wanted)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", [1, 3])
def test_snow_is_that_of_the_formula(side, severity):
    x = photo(side)
    mean, deviation, factor, threshold, radius, sigma, share = KINDS["snow"].level(severity, side)
    draws, image = drawn(), array(x)
    layer = mean + deviation * draws.normal(1, 1, side, side)[0, 0, 0, :, :, None].double().numpy()
    layer = oracles.cut_and_zoomed(layer, factor)
    layer = np.where(layer < threshold, 0, layer).clip(0, 1)
    layer = oracles.motion_blur(layer, radius, sigma, draws.uniform(-135, -45, 1).item())
    grey = image @ [0.299, 0.587, 0.114]
    image = share * image + (1 - share) * np.maximum(image, 1.5 * grey[..., None] + 0.5)
    found, wanted = made("snow", severity, x), (image + layer + np.rot90(layer, 2)).clip(0, 1)
    assert (np.abs(found - wanted) > 1e-5).mean() < 1e-3  # a flake at the threshold, by the last digit


def test_frost_has_the_shares_of_image_and_ice_and_never_darkens_more_than_they_say():
    x = photo(64)
    ice = weather.ice_texture(drawn(), 1, 64, 64)[0, 0]
    tint = torch.tensor(weather.ICE)[:, None, None]
    for severity in (1, 5):
        share, cover = KINDS["frost"].level(severity, 64)
        close(made("frost", severity, x), array(share * x + cover * ice * tint))
    assert 0.2 < ice.mean() < 0.8
    assert ice.std() > 0.1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", [1, 2, 3, 5])
def test_digital_is_that_of_the_formulas(side, severity):
    x = photo(side)
    share = KINDS["contrast"].level(severity, side)[0]
    mean = array(x).mean((0, 1))
    close(made("contrast", severity, x), mean + share * (array(x) - mean))
    small = int(side * KINDS["pixelate"].level(severity, side)[0])
    planes = [Image.fromarray(plane.numpy()).resize((small, small), Image.Resampling.BOX) for plane in x]
    planes = [np.asarray(plane.resize((side, side), Image.Resampling.BOX)) for plane in planes]
    close(made("pixelate", severity, x), np.stack(planes, -1))
    alpha, sigma, reach = KINDS["elastic_transform"].level(severity, side)
    draws = drawn()
    moved = draws.uniform(-reach, reach, 1, 3, 2)[0, 0].double().numpy()
    field = draws.uniform(-1, 1, 1, 2, side, side)[0, 0].double().numpy()
    close(made("elastic_transform", severity, x), oracles.elastic_transform(array(x), alpha, sigma, moved, field), 2e-4)


def written_and_read(pixels: np.ndarray, quality: int) -> tuple[np.ndarray, dict]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    image = Image.open(file)
    return np.asarray(image), image.quantization  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("quality", [7, 10, 25, 40, 50, 65, 80, 95])
def test_jpeg_is_pillows(quality):
    """Pillow's libjpeg rounds within its integer transforms, by which a pixel may differ."""
    for side in (32, 84, 100, 224):
        pixels = (255 * array(photo(side))).round().astype(np.uint8)
        for shown in (pixels, pixels[..., 1]):
            wanted, tables = written_and_read(shown, quality)
            x = torch.tensor(shown).reshape(side, side, -1).permute(2, 0, 1).float() / 255
            found = 255 * array(jpeg.jpeg(x, quality))
            error = np.abs(found - wanted.reshape(found.shape))
            assert error.mean() < 1.0
            assert np.abs(found - shown.reshape(found.shape)).mean() > 3 * error.mean()
            for key, base in enumerate((jpeg.LUMINANCE, jpeg.CHROMINANCE)[: len(tables)]):
                assert jpeg.table(base, quality).flatten().tolist() == tables[key]


def test_the_ice_of_two_images_differs():
    ice = weather.ice_texture(drawn(), 2, 48, 48)[0]
    assert (ice[0] - ice[1]).abs().mean() > 0.05
    assert np.isfinite(ndimage.laplace(ice[0, 0].numpy())).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_makes_the_same_images(kind):
    x = torch.stack([photo(84), photo(84, 1)])[None]
    here, there = (corrupted(x.to(d), kind, 3, generators()).cpu() for d in ("cpu", "cuda"))
    assert ((here - there).abs() > 1e-3).double().mean() < 1e-3  # a value that is rounded may fall to the other side
