"""data=folder with a table of files and classes in the place of class folders."""

import logging
from pathlib import Path

import pytest

from metalab.core.errors import UserError
from tests.data.folder import SPLITS, folder, load, load_named, picture, refusal


def table(root: Path, lines: list[str], head: str = "file,label", name: str = "labels.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return root


def scattered(root: Path, classes: int = 10, images: int = 3) -> list[str]:
    """Write pictures that no folder sorts, and return the lines of their table."""
    lines = []
    for c in range(classes):
        for i in range(images):
            picture(root / f"part{i}" / f"image{c * images + i:03d}.png", 100 * c + i)
            lines.append(f"part{i}/image{c * images + i:03d}.png,kind {c}")
    return lines


def test_it_reads_what_the_same_images_in_class_folders_are(tmp_path):
    lines = scattered(tmp_path / "table")
    for line in lines:
        file, name = line.split(",")
        (tmp_path / "folders" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folders" / name / Path(file).name).write_bytes((tmp_path / "table" / file).read_bytes())
    by_table, by_folder = load(table(tmp_path / "table", lines), labels="labels.csv"), load(tmp_path / "folders")
    for split in SPLITS:
        assert by_table[split].names == by_folder[split].names
        assert by_table[split].ids == by_folder[split].ids
        assert by_table[split].image_ids == by_folder[split].image_ids
        assert by_table[split].images.equal(by_folder[split].images)


@pytest.mark.parametrize("spelled", ["{}/{}.png", "{1}.png", "{1}", "{}/{}", "{}\\{}.png"])
def test_a_file_may_be_named_by_its_path_or_alone_with_or_without_extension(spelled, tmp_path):
    lines = []
    for line in scattered(tmp_path / "r"):
        file, name = line.split(",")
        lines.append(f"{spelled.format(*file.removesuffix('.png').split('/'))},{name}")
    assert set(load_named(table(tmp_path / "r", lines), labels="labels.csv").values()) == {3}


def test_columns_have_any_name_and_any_of_the_usual_marks_between_them(tmp_path):
    lines = [line.replace(",", ";") for line in scattered(tmp_path / "r")]
    root = table(tmp_path / "r", lines, "\ufeffFILE_NAME;CATEGORY")
    found = load_named(root, labels="labels.csv", file_column="FILE_NAME", label_column="CATEGORY")
    assert found == {f"kind {c}": 3 for c in range(10)}


def test_several_columns_name_the_class_by_the_one_that_is_1(tmp_path):
    names = [f"k{c}" for c in range(10)]
    lines = [
        f"{file},{','.join('1.0' if int(name.split()[1]) == c else '0.0' for c in range(10))}"
        for file, name in (line.split(",") for line in scattered(tmp_path / "r"))
    ]
    root = table(tmp_path / "r", lines, f"file,{','.join(names)}")
    assert load_named(root, labels="labels.csv", label_column=names) == dict.fromkeys(names, 3)
    table(root, [*lines[1:], lines[0].replace("0.0", "1.0", 1)], f"file,{','.join(names)}")
    assert "labels.csv, line 31: 2 of the columns k0, k1" in refusal(root, labels="labels.csv", label_column=names)


def test_a_column_may_say_the_split(tmp_path):
    home = {
        **dict.fromkeys(range(4), "training"),
        **dict.fromkeys(range(4, 7), "Valid"),
        **dict.fromkeys((7, 8, 9), "test"),
    }
    lines = [f"{line},{home[int(line.rpartition(' ')[2])]}" for line in scattered(tmp_path / "r")]
    root = table(tmp_path / "r", lines, "file,label,split")
    found = load(root, labels="labels.csv", split_column="split")
    assert [len(found[split].ids) for split in SPLITS] == [4, 3, 3]
    table(root, [*lines[:-1], lines[-1].replace("test", "exam")], "file,label,split")
    assert "labels.csv, line 31: split is 'exam'; expected train" in refusal(
        root, labels="labels.csv", split_column="split"
    )
    table(root, [line for line in lines if "Valid" not in line], "file,label,split")
    assert "labels.csv has no image in val" in refusal(root, labels="labels.csv", split_column="split")


def test_a_plain_classifier_splits_the_images_of_each_class_or_takes_the_tables_split(tmp_path):
    lines = scattered(tmp_path / "r", classes=3, images=10)
    root = table(tmp_path / "r", lines)
    found = load(root, labels="labels.csv", protocol="images")
    assert [split.names for split in found.values()] == [["kind 0", "kind 1", "kind 2"]] * 3
    assert sum(len(split.images) for split in found.values()) == 30
    table(root, [f"{line},{'test' if i % 2 else 'train'}" for i, line in enumerate(lines)], "file,label,split")
    found = load(root, labels="labels.csv", protocol="images", split_column="split")
    assert len(found["test"].images) == 15
    table(root, [f"{line},{'test' if 'kind 0' in line else 'train'}" for line in lines], "file,label,split")
    said = refusal(root, labels="labels.csv", protocol="images", split_column="split")
    assert said.endswith("labels.csv has 1 class with images in test: 2 are needed")


def test_only_keeps_some_classes_and_may_leave_out_images_of_several(tmp_path, caplog):
    lines = scattered(tmp_path / "r")
    more = [line.replace("kind 1", "kind 1|kind 2") for line in lines if line.endswith("kind 1")]
    root = table(tmp_path / "r", [*lines, *more])
    assert "is of kind 1|kind 2 here and of kind 1 above" in refusal(root, labels="labels.csv")
    keep = [f"kind {c}" for c in range(6)]
    assert load_named(root, labels="labels.csv", only=keep) == dict.fromkeys(keep, 3)
    assert "images of classes that data.only does not name are left out: 15" in caplog.text
    said = refusal(root, labels="labels.csv", only=["kind 1", "kin 2"])
    assert "data.only: " in said
    assert "has no class kin 2 with images. Did you mean kind 2" in said


def test_files_that_are_not_there_are_named_and_left_out_or_refused(tmp_path, caplog):
    lines = scattered(tmp_path / "r")
    root = table(tmp_path / "r", [*lines, "gone.png,kind 1", "lost.png,kind 2"])
    with caplog.at_level(logging.WARNING, "metalab.data"):
        data = folder(root, labels="labels.csv")
        assert "images that labels.csv names are not there and are left out: 2" in data.load("test").note
    assert "files that labels.csv names are not there and are left out: gone.png, lost.png" in caplog.text
    assert "files that labels.csv names are not below" in refusal(root, labels="labels.csv", strict=True)
    table(root, ["gone.png,kind 1", "lost.png,kind 2"])
    assert "of the 2 files that it names, none is below data.root: gone.png, lost.png" in refusal(
        root, labels="labels.csv"
    )


def test_a_changed_table_is_read_anew(tmp_path):
    lines = scattered(tmp_path / "r")
    root = table(tmp_path / "r", lines)
    assert load_named(root, labels="labels.csv")["kind 1"] == 3
    table(root, [line.replace("kind 1", "kind 2") if "part0" in line else line for line in lines])
    found = load_named(root, labels="labels.csv")
    assert (found["kind 1"], found["kind 2"]) == (2, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": "other.csv"}, r"data.labels=other.csv: .*other.csv cannot be read \(No such file"),
        ({"labels": ""}, "data.labels= is empty"),
        (
            {"labels": "labels.csv", "label_column": "labels"},
            r"data.label_column=labels: .* has no such column. Did",
        ),
        ({"labels": "labels.csv", "label_column": []}, "expected one column, or several different ones"),
        ({"labels": "labels.csv", "split_column": "fold"}, r"data.split_column=fold: .* has no such column. There"),
        ({"only": ["kind 1"]}, "data.only=.* goes with data.labels"),
        ({"split_column": "split"}, "data.split_column names a column of a table: type data.labels=labels.csv, too"),
        ({"label_column": "kind"}, "data.label_column names a column of a table: type data.labels=labels.csv, too"),
    ],
)
def test_what_a_table_has_not_is_refused(settings, said, tmp_path):
    root = table(tmp_path / "r", scattered(tmp_path / "r"))
    with pytest.raises(UserError, match=said):
        folder(root, **settings).load("train")


def test_a_name_that_several_files_have_is_refused(tmp_path):
    lines = scattered(tmp_path / "r")
    picture(tmp_path / "r" / "elsewhere" / "image000.png", 1)
    root = table(tmp_path / "r", [line.partition("/")[2] for line in lines])
    said = refusal(root, labels="labels.csv")
    assert "labels.csv, line 2: image000.png may be elsewhere/image000.png, part0/image000.png: name the path" in said


def test_two_columns_of_one_name_are_refused_and_empty_lines_passed_over(tmp_path):
    lines = scattered(tmp_path / "r")
    root = table(tmp_path / "r", [line + ",other" for line in lines], "file,label,label")
    assert "data.label_column=label: " in refusal(root, labels="labels.csv")
    assert "has 2 columns of this name" in refusal(root, labels="labels.csv")
    table(root, [*lines, ",", ","])
    assert set(load_named(root, labels="labels.csv").values()) == {3}


def test_a_file_may_be_named_by_its_whole_path(tmp_path):
    lines = scattered(tmp_path / "r")
    root = table(tmp_path / "r", [f"{tmp_path / 'r'}/{line}" for line in lines])
    assert set(load_named(root, labels="labels.csv").values()) == {3}
