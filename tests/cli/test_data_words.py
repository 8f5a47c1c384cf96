"""`metalab data`: words that cannot be followed are refused in one message, before anything is read."""

import os

import pytest
from PIL import Image

from metalab.cli.data import contact_sheet, leak_report
from metalab.core.errors import UserError
from metalab.data.identity.leaks import Leaks


@pytest.fixture(autouse=True)
def _nothing_is_read(monkeypatch):
    def refuse(*_):
        raise AssertionError("the work was begun")

    monkeypatch.setattr("metalab.cli.data.commands._composed", refuse)


@pytest.mark.parametrize("word", ["data.cache=/x", "glyphs", "data.cache=/x --config-dir conf", "--config-dir conf x"])
def test_list_refuses_what_it_does_not_take(bench, word):
    code, out, err = bench("data", "list", *word.split())
    assert (code, out) == (2, "")
    assert "metalab data list takes --config-dir FOLDER alone; to look into another cache type METALAB_CACHE=" in err


def test_a_file_is_no_folder_to_check_into(bench, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/found"):
        code, said, err = bench("data", "check", "glyphs", f"out={out}")
        assert (code, said) == (1, "")
        assert err == (
            f"metalab: out={out}: {tmp_path}/file is no folder, and nothing can be written into it: type another out="
        )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_is_no_picture_to_show(bench, tmp_path):
    (tmp_path / "folder").mkdir()
    assert bench("data", "show", "glyphs", "out=folder") == (
        1,
        "",
        f"metalab: out=folder is a folder, the name of a picture is expected: type out={tmp_path}/folder/picture.png",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_where_nobody_may_write(bench, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    for words in (("check", "glyphs", "out=locked/a"), ("show", "glyphs", "out=locked/a.png")):
        assert f"you may not write to {tmp_path}/locked: type another out=" in bench("data", *words)[2]


def test_what_can_be_written_is_begun(bench, tmp_path):
    (tmp_path / "folder").mkdir()
    for words in (("check", "glyphs", "out=folder"), ("show", "glyphs", "out=new/a.png")):
        with pytest.raises(AssertionError, match="the work was begun"):
            bench("data", *words)


def test_what_cannot_be_written_after_all_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"a\.png cannot be written \(.*\): type another place as out="):
        contact_sheet.save(Image.new("L", (1, 1)), tmp_path / "file" / "a.png")
    with pytest.raises(UserError, match=r"file cannot be written \(File exists\): type another place as out="):
        leak_report.write_leak_report(tmp_path / "file", {}, Leaks({}, [], [], []))
