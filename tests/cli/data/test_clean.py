"""`metalab data clean`: it shows what there is first, and removes stores alone."""

import json

import pytest

from metalab.data.storage.lock import locked


@pytest.fixture
def cache(tmp_path, command_line, images):
    """A cache with two stores of a folder's, one of glyphs', what a killed process left, and things of the user's."""
    for words in (("folder", f"data.root={images}", "data.size=16"), ("folder", f"data.root={images}", "data.size=32")):
        assert command_line("data", "prepare", *words)[0] == 0
    folder = tmp_path / "cache"
    store = next(folder.glob("folder-*/store.json"))
    for name in ("glyphs-28-20-0", "folder-0000.partial"):
        (folder / name).mkdir()
    (folder / "glyphs-28-20-0" / "store.json").write_text(store.read_text())
    (folder / "folder-0000.partial" / "train").write_bytes(bytes(10**6))
    for name in ("photos", "folder-mine", "x.old"):
        (folder / name).mkdir()
        (folder / name / "precious.png").write_bytes(b"x")
    (folder / "photos" / "store.json").write_text(json.dumps({"format": 1}))
    (folder / "linked-store").symlink_to(store.parent)
    (folder / "downloads").mkdir()
    (folder / "downloads" / "a.zip").write_bytes(bytes(2 * 10**6))
    return folder


def names(cache):
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def test_without_a_name_it_shows_sizes_and_removes_nothing(command_line, cache, images):
    before = names(cache)
    code, said = command_line("data", "clean")
    assert code == 0
    assert names(cache) == before
    rows = {line.split()[0]: line for line in said.splitlines() if line.startswith(" ") and line.split()}
    large = max(
        cache.glob("folder-*/store.json"), key=lambda file: sum(f.stat().st_size for f in file.parent.iterdir())
    )
    assert list(rows)[1:3] == ["folder-0000.partial", large.parent.name]  # largest first
    assert " 54 " in rows[large.parent.name]
    assert str(images) in rows[large.parent.name]
    assert "left behind by a process that was stopped" in rows["folder-0000.partial"]
    assert not {"photos", "folder-mine", "x.old", "linked-store", "downloads"} & set(rows)
    assert "beside them 2.0 MB of downloads in" in said
    assert "nothing is removed; type metalab data clean with names from the first column" in said


def test_what_is_named_is_removed_its_size_told_first(command_line, cache):
    stores = {name for name in names(cache) if name.startswith("folder-") and name != "folder-mine"}
    size = sum(file.stat().st_size for store in stores for file in (cache / store).iterdir())
    code, said = command_line("data", "clean", "glyphs-28-20-0")
    assert (code, "removed 1, 0.0 MB" in said) == (0, True)
    code, said = command_line("data", "clean", "folder")
    assert (code, f"removed {len(stores)}, {size / 1e6:.1f} MB" in said) == (0, True)
    assert said.index("1.0 MB") < said.index("removed")
    assert names(cache) == {"photos", "folder-mine", "x.old", "linked-store", "downloads"}


def test_all_takes_no_more_than_the_stores_and_a_store_is_made_again(command_line, cache, images):
    assert command_line("data", "clean", "all")[0] == 0
    assert names(cache) == {"photos", "folder-mine", "x.old", "linked-store", "downloads"}
    assert (cache / "photos" / "precious.png").exists()
    assert command_line("data", "prepare", "folder", f"data.root={images}", "data.size=16")[0] == 0


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("foldr", "metalab data clean foldr: there is no such store. Did you mean folder?"),
        ("photos", "metalab data clean photos: there is no such store."),
        (
            "data.cache=/x",
            "'data.cache=/x': metalab data clean takes names of stores alone; to look into another cache",
        ),
        ("--all", "'--all': metalab data clean takes names of stores alone"),
    ],
)
def test_what_makes_no_sense_removes_nothing(command_line, cache, word, why):
    before = names(cache)
    code, said = command_line("data", "clean", "folder", word)
    assert (code, why in said) == (2, True), said
    assert names(cache) == before


def test_an_empty_or_absent_cache_is_no_error(command_line, tmp_path):
    code, said = command_line("data", "clean")
    assert (code, "0.0 MB in" in said) == (0, True)
    assert not (tmp_path / "cache").exists()


def test_the_lock_of_a_store_is_that_of_what_is_left_of_it(cache):
    with locked(cache / "folder-0000"):
        assert (cache / "folder-0000.lock").exists()
