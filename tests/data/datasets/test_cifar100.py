"""CIFAR-FS and FC100: every copy of CIFAR-100 gives the same classes and images; numbers on the real data."""

import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from metalab.core.errors import UserError
from metalab.data.class_lists import SPLITS, class_list
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.datasets.photos.cifar100 import ARCHIVE, DOWNLOAD, FC100, FOLDER, CifarFS
from metalab.data.formats import download
from metalab.data.formats.download import Published
from tests.data.cifar100 import archive, folders, packed, pixels, unpacked
from tests.data.formats.test_download import Server, send

SHARED = os.environ.get("METALAB_SHARED_DATA")
real = pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there is no real CIFAR-100 to test on")


@pytest.mark.parametrize("lay_out", [archive, unpacked, folders, packed])
def test_every_layout_gives_the_same_classes_and_images(tmp_path, lay_out):
    lay_out(tmp_path / "source")
    for kind, option in ((CifarFS, "cifarfs"), (FC100, "fc100")):
        data = kind(str(tmp_path / "source"), str(tmp_path))
        for name in SPLITS:
            split = data.load(name)
            assert sorted(split.ids) == [f"cifar100:{each}" for each in class_list(f"{option}_{name}")]
            assert split.count.tolist() == [3] * len(split.ids)
            order = (2, 0, 1) if lay_out is folders else range(3)  # test/ stands before train/
            expected = np.stack([pixels(k.removeprefix("cifar100:"), i) for k in split.ids for i in order])
            assert np.abs(split.images.permute(0, 2, 3, 1).numpy().astype(int) - expected).max() <= 4  # JPEG
            assert len(set(split.files)) == len(split.files)
            note = "300 images instead of 60,000"
            assert split.note == (f"re-encoded, JPEG q95; {note}" if lay_out is packed else note)
        assert torch.equal(kind(None, str(tmp_path)).load("test").images, split.images)


def test_the_download_is_torchvisions_and_an_unreachable_one_says_what_to_do(tmp_path, monkeypatch):
    assert DOWNLOAD.urls[0] == torchvision.datasets.CIFAR100.url
    assert DOWNLOAD.checksum == f"md5:{torchvision.datasets.CIFAR100.tgz_md5}"
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(
        download.urllib.request, "urlopen", lambda *a, **k: (_ for _ in ()).throw(TimeoutError("no net"))
    )
    with pytest.raises(UserError, match=r"could not be downloaded") as caught:
        CifarFS(None, str(tmp_path)).load("train")
    assert all(url in str(caught.value) for url in DOWNLOAD.urls)
    assert "put into one folder as it comes, and type data.root=/that/folder" in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_download_is_used_once_its_checksum_holds(tmp_path, monkeypatch):
    archive(tmp_path / "source")
    raw = (tmp_path / "source" / ARCHIVE).read_bytes()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.script = [lambda request: send(request, raw[:99], len(raw)), lambda request: send(request, raw)]
    file = Published(ARCHIVE, (server.url,), f"md5:{hashlib.md5(raw).hexdigest()}")
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(CifarFS, "benchmark", replace(CifarFS.benchmark, downloads=(file,)))
    assert len(CifarFS(None, str(tmp_path / "cache")).load("train").ids) == 64
    monkeypatch.setattr(CifarFS, "benchmark", replace(CifarFS.benchmark, downloads=(file._replace(checksum="md5:0"),)))
    with pytest.raises(UserError, match=r"its checksum is md5:\w+, the published one is md5:0"):
        CifarFS(None, str(tmp_path / "other")).load("train")
    assert [path for path in (tmp_path / "other").rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    server.http.shutdown()
    server.http.server_close()


def test_a_missing_class_and_a_foreign_folder_are_named(tmp_path):
    folders(tmp_path / "source")
    for part in ("train", "test"):
        (tmp_path / "source" / part / "apple").rename(tmp_path / "source" / part / "pear_tree")
    with pytest.raises(UserError, match=r"does not hold the 100 classes of CIFAR-100: apple of train is missing"):
        FC100(str(tmp_path / "source"), str(tmp_path)).load("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is not laid out as CIFAR-FS. It should hold one of\n.*cifar-100-python\.tar"):
        CifarFS(str(tmp_path / "empty"), str(tmp_path)).load("train")


def test_classes_without_an_image_are_named_even_in_an_older_store(tmp_path, monkeypatch):
    packed(tmp_path / "source")
    path = tmp_path / "source" / "cifar100_jpeg95.npz"
    with np.load(path) as z:
        arrays = dict(z)
    arrays |= {"labels": arrays["labels"][:150], "files": arrays["files"][:150], "offsets": arrays["offsets"][:151]}
    np.savez(path, **arrays)
    why = r"50 of the 100 classes of CIFAR-FS have no image: mouse, .* and 40 more; a benchmark has to be whole"
    with pytest.raises(UserError, match=why):
        CifarFS(str(tmp_path / "source"), str(tmp_path)).load("train")
    assert not (tmp_path / "cifarfs-bertinetto-32").exists()
    with monkeypatch.context() as patched:
        patched.setattr(PublishedDataset, "_require", lambda *_: None)
        CifarFS(str(tmp_path / "source"), str(tmp_path)).load("train")
    with pytest.raises(UserError, match=why):
        CifarFS(None, str(tmp_path)).load("train")


@pytest.mark.parametrize(
    ("name", "raw", "why"),
    [
        ("meta", b"cos\nsystem\n(S'touch owned'\ntR.", "it asks for os.system, which no array needs"),
        ("meta", pickle.dumps({"fine_label_names": ["cat"]}), "1 classes, 300 images of uint8, 300 labels"),
        ("train", b"<html>", "is no pickle of cifar-100"),
        ("train", pickle.dumps({"data": np.zeros((1, 3072))}), "is no pickle of cifar-100"),
    ],
)
def test_a_pickle_that_is_none_is_named_and_not_run(tmp_path, monkeypatch, name, raw, why):
    monkeypatch.chdir(tmp_path)
    unpacked(tmp_path / "source")
    (tmp_path / "source" / FOLDER / name).write_bytes(raw)
    with pytest.raises(UserError, match=why):
        CifarFS("source", str(tmp_path)).load("train")
    assert not (tmp_path / "owned").exists()


def test_settings_are_checked():
    for kind in (CifarFS, FC100):
        with pytest.raises(UserError, match=r"data\.size=4 is out of range: 8 to 512 pixels, 32 in most papers"):
            kind(size=4)


@real
@pytest.mark.slow
def test_the_real_images_are_whole(tmp_path):
    data = CifarFS(str(Path(str(SHARED)) / "cifar100"), str(tmp_path))
    for name, classes in zip(SPLITS, (64, 16, 20), strict=True):
        assert data.load(name).count.tolist() == [600] * classes
        copies = "; 9 images are copies of others of their class" if name == "train" else ""
        assert data.load(name).note == "re-encoded, JPEG q95" + copies
