"""Augmentation: each image has a draw of its own, which hangs on the seed and the episode alone."""

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from metalab.core.errors import UserError
from metalab.data.sampling.augment import NUMBERS, Augment
from metalab.data.sampling.episode_sampler import BLOCK_EPISODES, EpisodeSampler
from tests.data.made import make, make_split

ALL = Augment(2, 0.5, 0.4, 15)
NONE = Augment(0, 0, 0, 0)


def images(count=6, channels=3, height=12, width=12) -> Tensor:
    return torch.rand(1, count, channels, height, width, generator=torch.Generator().manual_seed(0))


def numbers(count=6, **columns: float) -> Tensor:
    """Return numbers that change nothing, but for the named columns."""
    names = ["angle", "right", "down", "flip", "brightness", "contrast", "saturation"]
    u = torch.full((1, count, NUMBERS), 0.5)
    u[..., 3] = 1 - 1e-6
    for name, value in columns.items():
        u[..., names.index(name)] = value
    return u


def source(tasks=4, seed=0, augment: Augment | None = ALL) -> EpisodeSampler:
    return make(make_split(channels=3, side=12), tasks=tasks, seed=seed, augment=augment)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(12, 12), (10, 14)])
def test_shapes_are_kept_and_values_stay_in_0_to_1(channels, size):
    x = images(400, channels, *size)
    new = Augment(3, 0.5, 1, 180)(x, torch.rand(1, 400, NUMBERS))
    assert new.shape == x.shape
    assert new.dtype == torch.float32
    assert new.min() >= 0
    assert new.max() <= 1
    assert not torch.allclose(new, x)


def test_zeros_change_nothing():
    x = images()
    close(NONE(x, torch.rand(1, 6, NUMBERS)), x)
    close(ALL(x, numbers()), x)


def test_crop_is_a_crop_of_the_padded_image():
    x = images()
    padded = torch.nn.functional.pad(x[0], (2, 2, 2, 2))
    for right in range(5):
        for down in range(5):
            new = Augment(2, 0, 0, 0)(x, numbers(right=(right + 0.5) / 5, down=(down + 0.5) / 5))
            close(new[0], padded[..., down : down + 12, right : right + 12])


def test_flip_is_torchs_flip_and_as_frequent_as_asked():
    x = images()
    close(Augment(0, 0.3, 0, 0)(x, numbers(flip=0.29)), x.flip(-1))
    close(Augment(0, 0.3, 0, 0)(x, numbers(flip=0.31)), x)
    many = images(4000, 1, 2, 2)
    new = Augment(0, 0.3, 0, 0)(many, torch.rand(1, 4000, NUMBERS, generator=torch.Generator().manual_seed(1)))
    share = ((new - many).abs() > 1e-4).flatten(2).any(2).float().mean()
    assert abs(share - 0.3) < 0.03


@pytest.mark.parametrize("size", [(12, 12), (9, 16)])
@pytest.mark.parametrize("u", [0.0, 0.2, 1.0])
def test_rotation_is_torchvisions(u, size):
    x = images(1, 3, *size)
    turned = reference.rotate(x[0], 40 * (2 * u - 1), reference.InterpolationMode.BILINEAR)
    torch.testing.assert_close(Augment(0, 0, 0, 40)(x, numbers(1, angle=u))[0], turned, rtol=0, atol=1e-4)


@pytest.mark.parametrize("u", [0.0, 0.3, 0.9])
def test_jitter_is_torchvisions(u):
    x, factor = images(), 1 + 0.6 * (2 * u - 1)
    jitter = Augment(0, 0, 0.6, 0)
    close(jitter(x, numbers(brightness=u)), reference.adjust_brightness(x, factor))
    close(jitter(x, numbers(contrast=u)), reference.adjust_contrast(x, factor))
    close(jitter(x, numbers(saturation=u)), reference.adjust_saturation(x, factor))
    grey = images(channels=1)
    close(jitter(grey, numbers(saturation=u)), grey)


def test_the_same_images_and_labels_are_drawn_with_and_without():
    plain, augmented = source(augment=None), source()
    assert all(map(torch.equal, plain.indices(5), augmented.indices(5)))
    assert not torch.allclose(plain(5).query.x, augmented(5).query.x)
    close(source(augment=NONE)(5).query.x, plain(5).query.x)


def test_every_image_of_support_and_query_has_its_own_draw():
    split = make_split(channels=3, side=12)
    split.images[:] = split.images[:1]  # all images alike: what differs then is their draw
    one = make(split, tasks=4, augment=ALL)
    x = torch.cat([part.x for step in (0, BLOCK_EPISODES // 4) for part in one(step)], 1).flatten(0, 1)
    distances = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(9)
    assert distances.min() > 0.01


def test_it_hangs_on_seed_and_episode_alone():
    count = 24
    flat = {tasks: torch.cat([source(tasks)(step).query.x for step in range(count // tasks)]) for tasks in (1, 4, 8)}
    close(flat[1], flat[4])
    close(flat[1], flat[8])
    later = source()
    later(300)
    assert torch.equal(later(2).support.x, source()(2).support.x)
    assert not torch.allclose(source(seed=1)(2).support.x, source()(2).support.x)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((-1, 0, 0, 0), r"^reg\.augment\.crop=-1: expected 0 or more, 0 for none$"),
        ((0, 1.5, 0, 0), r"^reg\.augment\.flip=1\.5: expected a number from 0 to 1, "),
        ((0, 0, 2, 0), r"^reg\.augment\.jitter=2: "),
        ((0, 0, 0, 181), r"^reg\.augment\.rotation=181: expected a number from 0 to 180, "),
        ((0, 0, 0, float("nan")), r"^reg\.augment\.rotation=nan"),
    ],
)
def test_settings_are_checked(given, said):
    with pytest.raises(UserError, match=said):
        Augment(*given)
