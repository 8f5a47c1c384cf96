"""Published pickles: arrays of every numpy and Python are read, and nothing else is let in."""

import os
import pickle

import numpy as np
import pytest

from metalab.core.errors import UserError
from metalab.data.formats.safe_pickle import images_and_rows

IMAGES = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
ROWS = {"n01": [0, 1], "n02": [2, 3]}


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "rows", [ROWS, {"n01": np.arange(2), "n02": [np.int64(2), 3]}, {"n01": range(2), "n02": {2, 3}}]
)
def test_arrays_come_back_by_every_protocol(tmp_path, protocol, rows):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"image_data": IMAGES, "class_dict": rows}, protocol))
    images, found = images_and_rows(tmp_path / "a.pkl")
    assert np.array_equal(images, IMAGES)
    assert found == ROWS


@pytest.mark.parametrize("name", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_numpy_1_and_2_come_back(tmp_path, name):
    raw = pickle.dumps({"image_data": IMAGES, "class_dict": ROWS}, 2)
    own = np.empty(0).__reduce__()[0].__module__.encode()
    assert own in raw
    (tmp_path / "a.pkl").write_bytes(raw.replace(own, name))
    assert np.array_equal(images_and_rows(tmp_path / "a.pkl")[0], IMAGES)


@pytest.mark.parametrize(
    "evil",
    [Evil(), b"cbuiltins\neval\n(S'1'\ntR.", b"cos\nsystem\n(S'touch owned'\ntR.", b"cnumpy\nload\n(S'x'\ntR."],
)
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    raw = evil if isinstance(evil, bytes) else pickle.dumps({"image_data": IMAGES, "class_dict": evil})
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(UserError, match=r"it asks for .*, which no array needs.*nothing of it was used"):
        images_and_rows(tmp_path / "a.pkl")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"<html>", "invalid load key"),
        (b"", "Ran out of input"),
        (pickle.dumps({"image_data": IMAGES}), "class_dict"),
        (pickle.dumps([1]), "no pickle of miniImageNet"),
        (pickle.dumps({"image_data": IMAGES, "class_dict": {"n01": [4]}}), r"expected image_data uint8 \[N,84,84,3\]"),
        (pickle.dumps({"image_data": IMAGES * 1.0, "class_dict": ROWS}), r"expected image_data uint8 \[N,84,84,3\]"),
    ],
)
def test_what_is_no_such_pickle_is_named(tmp_path, raw, why):
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(UserError, match=why) as caught:
        images_and_rows(tmp_path / "a.pkl")
    assert str(tmp_path / "a.pkl") in str(caught.value)
