"""The embedded data set: one class a shape, no shape in two splits, hard enough to tell methods apart."""

import logging
import time
import unicodedata
from typing import Any

import numpy as np
import pytest
import torch

from metalab.core.errors import UserError
from metalab.data.datasets.drawings.glyph_shapes import ALIKE, FACES, closest, looks, turned, upright
from metalab.data.datasets.drawings.glyphs import RATIOS, Glyphs, draw, split_scripts
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation.pixel_baseline import pixel_nearest_neighbour

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    return Glyphs(cache=str(tmp_path_factory.mktemp("cache")), images=20, size=28, seed=0)


@pytest.fixture(scope="module")
def splits(glyphs):
    return {name: glyphs.load(name) for name in SPLITS}


@pytest.fixture(scope="module")
def shapes():
    return upright()


def test_counts(splits):
    classes = {name: len(set(split.ids)) for name, split in splits.items()}
    total = sum(classes.values())
    assert total >= 600
    for name, share in RATIOS.items():
        assert abs(classes[name] / total - share) < 0.03
    for split in splits.values():
        assert (split.count == 20).all()
        assert split.images.shape[1:] == (1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.turns is None
        assert not split.random_turns


def test_images_are_bright_ink_on_black(splits):
    for split in splits.values():
        corners = split.images[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.float().mean() < 20
        assert (split.images.amax((1, 2, 3)) > 100).all()  # no image is empty
        assert 0.05 < split.images.float().mean() / 255 < 0.35


def test_no_class_stands_in_two_splits(splits):
    ids = [set(split.ids) for split in splits.values()]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]


def test_no_script_stands_in_two_splits(splits):
    scripts = [{name.split()[0] for name in split.names} for split in splits.values()]
    assert len(set.union(*scripts)) == sum(map(len, scripts)) >= 12


def test_look_alikes_are_one_class(shapes):
    home = {code: g.code for g in shapes for code in (g.code, *g.alike)}
    assert home[ord("Α")] == home[ord("А")] == home[ord("A")] == ord("A")  # Greek, Cyrillic, Latin
    for twins in ("oO", "sS", "xX", "vV", "zZ", "οo", "Оo", "рp", "сc", "ѕs"):
        assert home[ord(twins[0])] == home[ord(twins[1])], twins
    assert len({home[ord(char)] for char in "ABEGKMSTX"}) == 9
    assert not {ord("À"), ord("Ａ"), ord("Å"), ord("ﬁ")} & set(home)  # written with other letters under NFKD
    assert sum(len(g.alike) for g in shapes) > 800


def test_no_two_classes_resemble_in_any_font(shapes):
    train = [g for g in shapes if split_scripts([g.script for g in shapes], 0)[g.script] == "train"]
    every = [looks(g.templates) for g in shapes + turned(train[::9], shapes)]
    assert len(every) > len(shapes) + 50
    similar = closest(every, every)
    assert np.diag(similar) == pytest.approx(1)
    np.fill_diagonal(similar, 0)
    assert similar.max() < ALIKE + 1e-5


def test_turned_train_classes_are_classes_where_they_resemble_none(splits, shapes):
    names = set(splits["train"].names)
    marked = [name for name in names if "/rot" in name]
    assert len(marked) > 500
    assert not any("/rot" in name for split in ("val", "test") for name in splits[split].names)
    assert {name.split("/")[0] for name in marked} <= names  # of the upright ones, whose ids they share
    assert len(set(splits["train"].ids)) == len(names) - len(marked)
    by_code = {g.code: g for g in shapes}
    turns = {char: [g.turn for g in turned([by_code[ord(char)]], shapes)] for char in "INSR"}
    assert turns == {"I": [], "N": [], "S": [], "R": [1, 3]}  # N turned is N or Z; R upside down is a class


def test_most_classes_have_two_designs(shapes):
    faces = [len(g.templates) for g in shapes]
    assert np.mean(np.array(faces) >= 2) > 0.99
    assert not any("Display" in face or "LastResort" in face for face in FACES)


def test_every_image_is_another_drawing(splits):
    images = splits["test"].images.numpy()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_drawing_is_deterministic_for_a_seed(shapes):
    def drawn(seed):
        return draw(shapes[0].templates, 4, 28, torch.Generator().manual_seed(seed))

    assert np.array_equal(drawn(0), drawn(0))
    assert not np.array_equal(drawn(0), drawn(1))


@pytest.mark.slow
def test_two_builds_are_equal(splits, tmp_path):
    again = Glyphs(str(tmp_path), 20, 28, 0).load("test")
    assert again.ids == splits["test"].ids
    assert torch.equal(again.images, splits["test"].images)


def test_the_second_start_reads_the_store(glyphs, splits, caplog):
    start = time.monotonic()
    with caplog.at_level(logging.INFO):
        assert torch.equal(glyphs.load("val").images, splits["val"].images)
    assert time.monotonic() - start < 2
    assert "Prepar" not in caplog.text


def test_scripts_are_split_by_seed(shapes):
    scripts = [g.script for g in shapes]
    assert split_scripts(scripts, 0) == split_scripts(scripts, 0)
    assert len({tuple(split_scripts(scripts, seed).values()) for seed in range(5)}) > 1
    for seed in range(5):
        home = split_scripts(scripts, seed)
        shares = [np.mean([home[script] == split for script in scripts]) for split in SPLITS]
        assert np.abs(np.array(shares) - list(RATIOS.values())).max() < 0.03


@pytest.mark.parametrize("size", [14, 84])
def test_other_sizes(shapes, size):
    images = draw(shapes[0].templates, 20, size, torch.Generator().manual_seed(0))
    assert images.shape == (20, 1, size, size)
    assert 0.05 < images.mean() / 255 < 0.35


def test_names_are_unicode_names(splits):
    assert splits["test"].names[0] == unicodedata.name(chr(int(splits["test"].ids[0].removeprefix("glyphs:U+"), 16)))


@pytest.mark.parametrize(("shot", "low", "high"), [(1, 0.44, 0.50), (5, 0.60, 0.70)])
def test_pixel_nearest_neighbour_is_neither_chance_nor_enough(splits, shot, low, high):
    source = EpisodeSampler(splits["test"], 5, shot, 15, 10, 0, "test", torch.device("cpu"))
    accuracy, ci95 = pixel_nearest_neighbour(source, 600)
    assert low < accuracy < high
    assert ci95 < 0.01


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"images": 1}, "data.images=1: expected 2 to 1000 images a class; type data.images=20"),
        ({"size": 8}, "data.size=8: expected 14 to 84 pixels; type data.size=28"),
        ({"seed": -1}, "data.seed=-1: expected 0 or more; type data.seed=0"),
        ({"seed": 2**64}, "data.seed=18446744073709551616: expected less than 2^64; type data.seed=0"),
    ],
)
def test_settings_out_of_range(changed, text):
    settings: dict[str, Any] = {"cache": None, "images": 20, "size": 28, "seed": 0} | changed
    with pytest.raises(UserError) as error:
        Glyphs(**settings)
    assert str(error.value) == text
