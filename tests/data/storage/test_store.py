"""The store: what goes in comes out, and nothing half-made, foreign or damaged is ever taken for it."""

import json
import logging
import os
import warnings

import numpy as np
import pytest
import torch

from metalab.core.errors import UserError
from metalab.data.storage.store import META, cache_folder, open_existing, open_or_build, verifying
from tests.data.toy import RECIPE, never, records


def test_what_goes_in_comes_out(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that cannot be written to
        train = open_or_build(tmp_path / "toy", RECIPE, records).split("train")
    assert train.images.shape == (8, 1, 5, 5)
    assert train.images.dtype == torch.uint8
    assert train.images[:, 0, 2, 3].tolist() == [0, 1, 2, 3, 20, 21, 22, 23]
    assert train.first.tolist() == [0, 4]
    assert train.count.tolist() == [4, 4]
    assert train.ids == ["toy:0", "toy:2"]
    assert train.names == ["class 0", "class 2"]
    assert train.files[4] == "2/0.png"
    again = open_or_build(tmp_path / "toy", RECIPE, never)
    assert torch.equal(again.split("train").images, train.images)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["toy"], ["toy", "toy.lock"])


def test_images_are_mapped_and_the_file_cannot_be_spoilt(tmp_path):
    store = open_or_build(tmp_path / "toy", RECIPE, records)
    assert isinstance(store.images["train"], np.memmap)
    assert store.split("train").images.data_ptr() == store.images["train"].ctypes.data
    store.split("train").images.fill_(99)
    assert open_or_build(tmp_path / "toy", RECIPE, never).split("train").images[0, 0, 0, 0] == 0


def test_unknown_split_names_those_there_are(tmp_path):
    with pytest.raises(UserError, match="toy has no split 'trian'; it has: train, val"):
        open_or_build(tmp_path / "toy", RECIPE, records).split("trian")


def truncate(folder):
    file = next(folder.glob("train-*.uint8"))
    os.truncate(file, 199)


def lose_a_file(folder):
    next(folder.glob("val-*.uint8")).unlink()


def garble_meta(folder):
    (folder / META).write_text("<html>")


def older_format(folder):
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps({**meta, "format": 0}))


def foreign_file(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("not a folder at all")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (truncate, "has 199 bytes instead of 200"),
        (lose_a_file, ".uint8 is missing"),
        (garble_meta, "store.json cannot be understood"),
        (older_format, "the store has format 0 where this version writes 1"),
        (foreign_file, "the store is damaged"),
    ],
)
def test_a_damaged_store_is_rebuilt_and_said_so(tmp_path, caplog, spoil, why):
    open_or_build(tmp_path / "toy", RECIPE, records)
    spoil(tmp_path / "toy")
    assert open_existing(tmp_path / "toy", RECIPE) is None
    with caplog.at_level(logging.INFO, "metalab.data"):
        store = open_or_build(tmp_path / "toy", RECIPE, records)
    assert why in caplog.text
    assert store.split("train").images.shape == (8, 1, 5, 5)
    open_or_build(tmp_path / "toy", RECIPE, never)


def test_other_bytes_of_the_same_size_are_found_where_it_is_asked_for(tmp_path, caplog):
    open_or_build(tmp_path / "toy", RECIPE, records)
    file = next((tmp_path / "toy").glob("train-*.uint8"))
    file.write_bytes(bytes(200))
    assert (
        not open_or_build(tmp_path / "toy", RECIPE, never).split("train").images.any()
    )  # a training's start does not read
    with verifying():
        assert open_existing(tmp_path / "toy", RECIPE) is None
        with caplog.at_level(logging.INFO, "metalab.data"):
            assert open_or_build(tmp_path / "toy", RECIPE, records).split("train").images.any()
        assert f"the store is damaged: {file.name} has other content than was written" in caplog.text
        open_or_build(tmp_path / "toy", RECIPE, never)


def test_another_recipe_rebuilds_and_says_what_changed(tmp_path, caplog):
    old = open_or_build(tmp_path / "toy", RECIPE, records).split("train")
    with caplog.at_level(logging.INFO, "metalab.data"):
        new = open_or_build(tmp_path / "toy", {**RECIPE, "size": 6}, lambda: records(images=2)).split("train")
    assert "the recipe has changed: size was 5 and is 6" in caplog.text
    assert len(new.files) == 4
    assert old.images[7, 0, 0, 0] == 23  # whoever has the old one open keeps it


def test_existing_asks_for_the_settings_only(tmp_path):
    assert open_existing(tmp_path / "toy", {"size": 5}) is None
    open_or_build(tmp_path / "toy", {**RECIPE, "source": "a disk"}, records)
    assert open_existing(tmp_path / "toy", RECIPE) is not None
    assert open_existing(tmp_path / "toy", {"size": 6}) is None


def test_cache_folder_goes_by_key_then_environment_then_system(tmp_path, monkeypatch):
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "environment"))
    assert cache_folder(str(tmp_path / "key")) == tmp_path / "key"
    assert cache_folder(None) == tmp_path / "environment"
    monkeypatch.delenv("METALAB_CACHE")
    assert "metalab" in str(cache_folder(None))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"is a file; a folder is needed\. Type data.cache="):
        cache_folder(str(tmp_path / "file"))
