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

import metalab.data.omniglot as module
from metalab.data.characters import MINIMAL, SPLITS, alphabet
from metalab.data.episodes import Episodes
from metalab.data.folder import Folder
from metalab.data.identity import known, marks
from metalab.data.omniglot import Omniglot
from metalab.data.sources import class_list
from metalab.errors import UserError

SHARED = os.environ.get("METALAB_SHARED_DATA")
real = pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there is no real Omniglot to test on")
CHARACTERS = sorted(name for split in SPLITS for name in class_list(f"omniglot_vinyals_{split}"))


def drawing(number: int, drawer: int) -> bytes:
    """Return a PNG as the official ones: 105x105, 1 bit, ink black; a bar whose place tells the two numbers."""
    ink = np.ones((105, 105), bool)
    ink[number % 100 : number % 100 + 5, :60] = False
    ink[60:, 10 * drawer : 10 * drawer + 8] = False
    raw = io.BytesIO()
    Image.fromarray(ink).save(raw, "PNG")
    return raw.getvalue()


def write_zips(root: Path, characters: list[str]) -> None:
    for part, some in (("images_background", characters[:964]), ("images_evaluation", characters[964:])):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for number, name in enumerate(some):
                for drawer in (1, 2):
                    file = f"{part}/{name}/{number + 1:04d}_{drawer:02d}.png"
                    archive.writestr(zipfile.ZipInfo(file), drawing(number, drawer))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("omniglot")
    write_zips(folder, CHARACTERS)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_drawings_given_as_a_folder_are_known_and_other_images_are_not(root, cache, tmp_path):
    train = Omniglot(str(root), str(cache)).load("train")
    assert len(train.image_ids) == len(train.images)
    noise = np.random.default_rng(0)
    for k, name in enumerate(sorted(set(train.ids))[:6]):
        character = name.removeprefix("omniglot:")
        part = next(file for file in train.files if character in file).split("/")[0]
        for i in (1, 2):
            home = tmp_path / "mine" / ("train", "val", "test")[k // 2] / f"{k}"
            home.mkdir(parents=True, exist_ok=True)
            file = next(each for each in train.files if character in each and each.endswith(f"_0{i}.png"))
            with zipfile.ZipFile(root / f"{part}.zip") as archive:
                drawn = archive.read(file)
            if k % 2:  # images of nobody's
                raw = io.BytesIO()
                Image.fromarray(noise.integers(0, 256, (105, 105), dtype=np.uint8)).save(raw, "PNG")
                drawn = raw.getvalue()
            (home / f"{i}.png").write_bytes(drawn)
    mine = Folder(str(tmp_path / "mine"), str(tmp_path / "cache"), 28, 1, [0.6, 0.2, 0.2], 0, True)
    assert [known(mine.load(split), marks(train)) for split in ("train", "val", "test")] == [["0"], ["2"], ["4"]]


@pytest.fixture
def no_download(monkeypatch):
    def fetch(*_):
        raise AssertionError("a download was begun")

    monkeypatch.setattr(module, "fetch", fetch)


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


BACKGROUND = {"background": (30, 5, 964), "small1": (5, 1, 136), "small2": (5, 1, 156)}  # alphabets, held, characters


@pytest.fixture(scope="module")
def background(tmp_path_factory) -> Path:
    """A folder with images_background.zip alone, as it is published: all characters of 30 alphabets."""
    folder = tmp_path_factory.mktemp("background")
    names = [name for name in CHARACTERS if alphabet(name) in class_list("omniglot_background")]
    assert len(names) == 964
    write_zips(folder, names)
    (folder / "images_evaluation.zip").unlink()
    return folder


@pytest.mark.parametrize("protocol", list(BACKGROUND))
def test_a_sixth_of_the_alphabets_at_least_one_is_held_out(background, cache, protocol):
    alphabets, held, characters = BACKGROUND[protocol]
    data = Omniglot(str(background), str(cache), protocol)
    found = {split: {alphabet(name) for name in data.load(split).names} for split in ("train", "val")}
    assert len(found["val"]) == held
    assert len(found["train"]) == alphabets - held
    assert not found["train"] & found["val"]
    assert sum(len(data.load(split).ids) for split in ("train", "val")) == characters
    assert data.load("train").turns is None
    assert not data.load("train").random_turns
    assert data.characters() == Omniglot(protocol=protocol).characters()
    assert any(data.characters() != Omniglot(protocol=protocol, seed=seed).characters() for seed in range(1, 9))
    with pytest.raises(UserError, match=r"has no test split: .* metalab eval run=RUN data=omniglot_challenge"):
        data.load("test")


def test_a_minimal_set_is_read_from_its_own_zip_first(tmp_path, no_download):
    with pytest.raises(UserError, match=r"has neither images_background_small1\.zip nor a folder .*protocol=small1"):
        Omniglot(str(tmp_path), str(tmp_path / "cache"), "small1").load("train")
    names = [name for name in CHARACTERS if alphabet(name) in MINIMAL["small1"]]
    with zipfile.ZipFile(tmp_path / "images_background_small1.zip", "w") as archive:
        for name in names:
            archive.writestr(f"images_background_small1/{name}/0001_01.png", drawing(1, 1))
    (tmp_path / "images_background.zip").write_bytes(b"not read")
    data = Omniglot(str(tmp_path), str(tmp_path / "cache"), "small1")
    assert [len(data.load(split).ids) for split in ("train", "val")] == [
        list(data.characters().values()).count(split) for split in ("train", "val")
    ]
    assert data.load("train").files[0].startswith("images_background_small1/")


def test_episodes_within_an_alphabet_and_with_drawers_apart(root, cache):
    data = Omniglot(str(root), str(cache), within="alphabet", group=r"_(\d+)\.png")
    split = data.load("test")
    assert split.kin is not None
    assert split.group is not None
    assert len(split.kin.names) == len({alphabet(name) for name in split.names})
    source = Episodes(split, 5, 1, 1, 200, 0, "test", torch.device("cpu"))
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


@real
def test_shipped_lists_are_the_published_ones():
    for split in SPLITS:
        published = (Path(str(SHARED)) / "splits" / "omniglot_vinyals" / f"{split}.txt").read_text().split()
        shipped = class_list(f"omniglot_vinyals_{split}")
        assert {f"{name}/rot{turn}" for name in shipped for turn in ("000", "090", "180", "270")} == set(published)


@real
@pytest.mark.parametrize(("protocol", "characters"), [("background", 964), ("small1", 136), ("small2", 156)])
def test_the_real_background_sets_are_whole(tmp_path, protocol, characters):
    data = Omniglot(str(Path(str(SHARED)) / "omniglot"), str(tmp_path), protocol)
    counts = [data.load(split).count for split in ("train", "val")]
    assert sum(map(len, counts)) == characters
    assert torch.cat(counts).tolist() == [20] * characters


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
