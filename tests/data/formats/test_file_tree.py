"""What the user gives: archives that are not to be trusted, folders that are not there, what a fingerprint sees."""

import os
import zipfile
from pathlib import Path

import pytest

from metalab.core.errors import UserError
from metalab.data.class_lists import class_list
from metalab.data.formats.file_tree import fingerprint, given_folder, tree, zip_members

LISTS = Path(__file__).parents[3] / "metalab" / "data" / "splits"


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "..\\evil.png"])
def test_an_archive_that_reaches_outside_is_refused_before_anything_is_read(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/first.png", b"1")
        archive.writestr(name, b"2")
    members = zip_members(tmp_path / "a.zip")
    with pytest.raises(UserError, match="names a file outside of itself"):
        next(members)


def test_members_come_sorted_and_nothing_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("b/2.png", "b/1.png", "a/1.PNG", "a/readme.txt", "__MACOSX/a/1.png"):
            archive.writestr(name, name.encode())
    assert [name for name, _ in zip_members(tmp_path / "a.zip")] == ["a/1.PNG", "b/1.png", "b/2.png"]
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_web_page_and_a_damaged_zip_are_named(tmp_path):
    (tmp_path / "a.zip").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"a\.zip is no sound zip file \(File is not a zip file\). Fetch it again"):
        list(zip_members(tmp_path / "a.zip"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.png", b"x" * 1000)
    raw = bytearray((tmp_path / "b.zip").read_bytes())
    raw[500] ^= 1
    (tmp_path / "b.zip").write_bytes(raw)
    with pytest.raises(UserError, match=r"b\.zip is no sound zip file \(Bad CRC-32 for file 'a\.png'\)"):
        list(zip_members(tmp_path / "b.zip"))


def test_given_folder_says_what_is_there_instead(tmp_path):
    (tmp_path / "file").touch()
    assert given_folder(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match=r"there is no such folder .*type data\.root=/path/to/the/folder"):
        given_folder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="this is a file"):
        given_folder(str(tmp_path / "file"))


def test_fingerprint_sees_every_change_of_name_size_and_time(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"1")
    (tmp_path / "a" / ".hidden").write_bytes(b"1")

    def seen():
        return fingerprint(tmp_path, tree(tmp_path))

    first = seen()
    assert (first["files"], first["bytes"]) == (1, 1)
    assert seen() == first
    os.utime(tmp_path / "a" / "1.png", (1, 1))
    second = seen()
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "2.png")
    third = seen()
    assert len({first["digest"], second["digest"], third["digest"]}) == 3


def test_the_lists_of_omniglot_are_vinyals():
    names = [f"omniglot_vinyals_{split}" for split in ("train", "val", "test")]
    assert [len(class_list(name)) for name in names] == [1028, 172, 423]
    assert class_list(names[0])[0] == "Alphabet_of_the_Magi/character01"


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.txt")), ids=lambda path: path.stem)
def test_class_lists_name_their_source_and_licence(path):
    head = "".join(line for line in path.read_text("utf-8").splitlines(keepends=True) if line.startswith("#"))
    assert "Source: " in head
    assert "Licence: " in head
