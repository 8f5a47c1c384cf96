"""Omniglot: the splits leak nothing, rotations stay together, only what is given is read; numbers on the real data."""

import io
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metalab.data.datasets.drawings.omniglot as module
from metalab.core.errors import UserError
from metalab.data.class_lists import class_list
from metalab.data.datasets.drawings.omniglot import Omniglot
from metalab.data.datasets.drawings.omniglot_splits import SPLITS, alphabet
from metalab.data.sampling.episode_sampler import EpisodeSampler
from tests.data.omniglot import CHARACTERS, drawing, write_zips

SHARED = os.environ.get("METALAB_SHARED_DATA")
real = pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there is no real Omniglot to test on")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("omniglot")
    write_zips(folder, CHARACTERS)
    return folder


def characters_of(data: Omniglot) -> dict[str, set[str]]:
    return {split: set(data.load(split).ids) for split in SPLITS}


def test_vinyals_turns_every_character_into_four_classes(root, cache):
    data = Omniglot(str(root), str(cache))
    for split, characters in zip(SPLITS, (1028, 172, 423), strict=True):
        loaded = data.load(split)
        assert len(loaded.ids) == len(loaded.names) == len(loaded.first) == len(loaded.count) == 4 * characters
        assert len(set(loaded.ids)) == characters
        assert len(set(loaded.names)) == 4 * characters
        assert loaded.images.shape == (2 * characters, 1, 28, 28)  # once, upright
        assert loaded.turns is not None
        assert loaded.turns.view(-1, 4).unique(dim=0).tolist() == [[0, 1, 2, 3]]
        assert (loaded.first.view(-1, 4) == loaded.first.view(-1, 4)[:, :1]).all()
        assert not loaded.random_turns
        assert loaded.names[5] == loaded.ids[5].removeprefix("omniglot:") + "/rot090"
        for k in range(0, len(loaded.ids), 97):  # the images of a class are its own
            files = loaded.files[loaded.first[k] : loaded.first[k] + loaded.count[k]]
            assert [file.split("/", 1)[1].rsplit("/", 1)[0] for file in files] == [loaded.ids[k][9:]] * 2


@pytest.mark.parametrize("protocol", ["vinyals", "random"])
def test_no_character_stands_in_two_splits(root, cache, protocol):
    split = characters_of(Omniglot(str(root), str(cache), protocol))
    assert not split["train"] & split["val"]
    assert not split["train"] & split["test"]
    assert not split["val"] & split["test"]
    assert split["train"] | split["val"] | split["test"] == {f"omniglot:{name}" for name in CHARACTERS}


def test_random_split_goes_by_seed_and_draws_turns(root, cache):
    data = Omniglot(str(root), str(cache), "random", seed=1)
    assert [len(data.load(split).ids) for split in SPLITS] == [1100, 100, 423]
    assert data.load("test").random_turns
    assert data.load("test").turns is None
    assert characters_of(data) == characters_of(Omniglot(str(root), str(cache), "random", seed=1))
    assert data.characters() != Omniglot(protocol="random", seed=2).characters()


def test_episodes_within_an_alphabet_and_with_drawers_apart(root, cache):
    data = Omniglot(str(root), str(cache), within="alphabet", group=r"_(\d+)\.png")
    split = data.load("test")
    assert split.families is not None
    assert split.group is not None
    assert len(split.families.names) == len({alphabet(name) for name in split.names})
    source = EpisodeSampler(split, 5, 1, 1, 200, 0, "test", torch.device("cpu"))
    draw = source.indices(0)
    for t in range(200):
        assert len({alphabet(split.names[k]) for k in draw.classes[t].tolist()}) == 1
        drawers = [split.files[i][-6:-4] for i in draw.image[t].tolist()]
        assert len(set(drawers[:5])) == len(set(drawers[5:])) == 1
        assert drawers[0] != drawers[5]


def test_ink_is_white_on_black_and_every_pixel_the_mean_of_its_area(root, cache):
    loaded = Omniglot(str(root), str(cache), size=105).load("train")
    name = CHARACTERS[0]
    k = loaded.ids.index(f"omniglot:{name}")
    expected = 255 - np.asarray(Image.open(io.BytesIO(drawing(0, 1))).convert("L"))
    assert torch.equal(loaded.images[loaded.first[k], 0], torch.from_numpy(expected))
    small = Omniglot(str(root), str(cache), size=21).load("train").images[loaded.first[k], 0]
    assert np.abs(small.numpy() - expected.reshape(21, 5, 21, 5).mean((1, 3))).max() <= 1


def test_unpacked_folders_give_the_same(root, cache, tmp_path, no_download):
    for part in module.WHOLE:
        zipfile.ZipFile(root / f"{part}.zip").extractall(tmp_path / "unpacked")
    folders = Omniglot(str(tmp_path / "unpacked"), str(tmp_path / "cache")).load("val")
    zips = Omniglot(str(root), str(cache)).load("val")
    assert torch.equal(folders.images, zips.images)
    assert folders.files == zips.files


def test_without_root_the_prepared_store_is_read_and_nothing_fetched(root, cache, no_download):
    given = Omniglot(str(root), str(cache)).load("val")
    assert torch.equal(Omniglot(None, str(cache)).load("val").images, given.images)


def test_with_root_nothing_else_is_read(root, cache, tmp_path, no_download, caplog):
    Omniglot(str(root), str(cache)).load("val")  # prepared from other files
    with pytest.raises(UserError, match=r"has neither images_background\.zip nor a folder images_background/"):
        Omniglot(str(tmp_path), str(cache)).load("val")
    with pytest.raises(UserError, match="there is no such folder"):
        Omniglot(str(tmp_path / "nowhere"), str(cache)).load("val")
    write_zips(tmp_path, list(reversed(CHARACTERS)))
    with caplog.at_level(logging.INFO, "metalab.data"):
        Omniglot(str(tmp_path), str(tmp_path / "cache")).load("val")
        os.utime(tmp_path / "images_evaluation.zip", (1, 1))
        Omniglot(str(tmp_path), str(tmp_path / "cache")).load("val")
    assert "the recipe has changed: source was" in caplog.text


def test_a_failed_download_says_what_to_do_by_hand(tmp_path, monkeypatch):
    seen = []

    def fetch(urls, checksum, to, by_hand):
        seen.extend([*urls, checksum, to])
        raise UserError(by_hand)

    monkeypatch.setattr(module, "fetch", fetch)
    expected = r"fetch images_background\.zip and images_evaluation\.zip .* type data\.root=/that/folder"
    with pytest.raises(UserError, match=expected):
        Omniglot(None, str(tmp_path)).load("train")
    assert seen[0].endswith("/python/images_background.zip")
    assert seen[-2] == "md5:68d2efa1b9178cc56df9314c21c6e718"
    assert seen[-1] == tmp_path / "downloads" / "images_background.zip"


@pytest.mark.slow
def test_missing_and_unknown_characters_and_damaged_drawings_are_named(tmp_path):
    write_zips(tmp_path, CHARACTERS[:-3])
    with pytest.raises(UserError, match=rf"3 of the 1623 characters are missing, {CHARACTERS[-3]} the first"):
        Omniglot(str(tmp_path), str(tmp_path)).load("train")
    write_zips(tmp_path, [*CHARACTERS, "Elvish/character01"])
    with pytest.raises(UserError, match="'Elvish/character01' is no character of Omniglot"):
        Omniglot(str(tmp_path), str(tmp_path)).load("train")
    write_zips(tmp_path, CHARACTERS)
    with zipfile.ZipFile(tmp_path / "images_background.zip", "a") as archive:
        archive.writestr(f"images_background/{CHARACTERS[0]}/0001_03.png", b"<html>")
    with pytest.raises(UserError, match=r"character01/0001_03\.png cannot be read"):
        Omniglot(str(tmp_path), str(tmp_path)).load("train")


def test_settings_are_checked():
    with pytest.raises(UserError, match=r"data\.protocol=vinyal is unknown\. Type data\.protocol=vinyals"):
        Omniglot(protocol="vinyal")
    with pytest.raises(UserError, match=r"data\.size=0 is out of range: 1 to 105 pixels"):
        Omniglot(size=0)
    with pytest.raises(UserError, match=r"data\.seed=18446744073709551616 is out of range: below 2\^64"):
        Omniglot(protocol="random", seed=2**64)


@real
def test_shipped_lists_are_the_published_ones():
    for split in SPLITS:
        published = (Path(str(SHARED)) / "splits" / "omniglot_vinyals" / f"{split}.txt").read_text().split()
        shipped = class_list(f"omniglot_vinyals_{split}")
        assert {f"{name}/rot{turn}" for name in shipped for turn in ("000", "090", "180", "270")} == set(published)


@pytest.mark.slow
@real
def test_real_omniglot_is_whole_and_pixel_nearest_neighbour_is_as_known(tmp_path):
    data = Omniglot(str(Path(str(SHARED)) / "omniglot"), str(tmp_path))
    for split, characters in zip(SPLITS, (1028, 172, 423), strict=True):
        assert data.load(split).count.tolist() == [20] * (4 * characters)
    test = data.load("test")
    pixels = test.images[test.first[::4, None] + torch.arange(20)].flatten(2).float()  # upright only
    pixels = pixels / pixels.norm(dim=-1, keepdim=True)
    generator = torch.Generator().manual_seed(0)
    right = 0.0
    for _ in range(600):
        classes = torch.randperm(len(pixels), generator=generator)[:5]
        drawn = pixels[classes[:, None], torch.rand(5, 20, generator=generator).argsort(1)[:, :16]]
        guess = (drawn[:, 1:] @ drawn[:, 0].T).argmax(-1)
        right += (guess == torch.arange(5)[:, None]).float().mean().item()
    assert abs(100 * right / 600 - 47.0) < 1.5
