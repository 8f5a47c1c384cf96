"""A folder and an archive read alike; an archive that reaches outside of itself, or is broken, is refused."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from metalab.core.errors import UserError
from metalab.data.formats.archives import found

HELD = {"b/2.png": b"two", "b/1.png": b"one", "a/1.png": b"three"}


def tar(path: Path, names: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, raw in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))


def zipped(path: Path, names: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in names.items():
            archive.writestr(name, raw)


def test_folder_tar_and_zip_hold_the_same(tmp_path):
    below = {f"set/{name}": raw for name, raw in HELD.items()}
    tar(tmp_path / "set.tgz", {**below, "else/x": b"", "set/.hidden": b""})
    zipped(tmp_path / "set.zip", {**{f"deep/{name}": raw for name, raw in below.items()}, "__MACOSX/set/1.png": b""})
    for name, raw in below.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "only").mkdir()
    for archive in ("set.tgz", "set.zip"):
        (tmp_path / archive).rename(tmp_path / "only" / archive)
        files = found(tmp_path / "only", "set", ("set.tgz", "set.zip"))
        assert files is not None
        assert {name: files.read(name) for name in files.names} == HELD
        assert files.stamped() == [tmp_path / "only" / archive]
        (tmp_path / "only" / archive).unlink()
    assert found(tmp_path / "only", "set", ("set.tgz", "set.zip")) is None
    for root in (tmp_path, tmp_path / "set"):
        files = found(root, "set", ("set.tgz",))
        assert files is not None
        assert {name: files.read(name) for name in files.names} == HELD
        assert files.names == sorted(HELD)
        assert len(files.stamped()) == 3


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize("name", ["../evil.png", "set/../../evil.png", "/etc/evil.png", "C:\\evil.png"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path, make, name):
    path = tmp_path / ("a.tgz" if make is tar else "a.zip")
    make(path, {"set/first.png": b"1", name: b"2"})
    with pytest.raises(UserError, match=r"names a file outside of itself \('.*evil\.png'\): it is not to be trusted"):
        found(tmp_path, "set", (path.name,))


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            entry = tarfile.TarInfo(f"set/{kind!r}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    files = found(tmp_path, "set", ("a.tgz",))
    assert files is not None
    assert files.names == []


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_a_web_page_and_half_an_archive_are_named(tmp_path, name):
    (tmp_path / name).write_text("<html>not found</html>")
    with pytest.raises(UserError, match=rf"(?s){name} is no sound archive .*Fetch it again; nothing of it was used"):
        found(tmp_path, "set", (name,))
    (tar if name == "a.tgz" else zipped)(tmp_path / name, {f"set/{i}.png": bytes(range(256)) * 9 for i in range(99)})
    raw = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=rf"{name} is no sound archive"):
        found(tmp_path, "set", (name,))
