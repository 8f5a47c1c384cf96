"""Omniglot's background set and the minimal ones: what a net for the one-shot challenge learns from."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from metalab.core.errors import UserError
from metalab.data.class_lists import class_list
from metalab.data.datasets.drawings.omniglot import Omniglot
from metalab.data.datasets.drawings.omniglot_splits import MINIMAL, alphabet
from tests.data.omniglot import CHARACTERS, drawing, write_zips

SHARED = os.environ.get("METALAB_SHARED_DATA")
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


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there is no real Omniglot to test on")
@pytest.mark.parametrize(("protocol", "characters"), [("background", 964), ("small1", 136), ("small2", 156)])
def test_the_real_background_sets_are_whole(tmp_path, protocol, characters):
    data = Omniglot(str(Path(str(SHARED)) / "omniglot"), str(tmp_path), protocol)
    counts = [data.load(split).count for split in ("train", "val")]
    assert sum(map(len, counts)) == characters
    assert torch.cat(counts).tolist() == [20] * characters
