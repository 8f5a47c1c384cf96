"""eval.folds: a net for each fold of few photographs, every image tested once, from the command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.tracking import checkpoint
from metalab.training import train
from tests.data.folder import tree
from tests.data.pacs import photos, real

PLAIN = ("data=folder", "data.protocol=images", "data.size=16", "algo=baseline", "algo.mini_batch=8", "device=cpu")
SHORT = ("backbone.filters=4", "train.steps=4", "train.val_every=2", "train.log_every=2")
FOLDS = 3


def record(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder of two classes, 10 and 7 pictures of noise."""
    root = tmp_path_factory.mktemp("folds")
    tree(root / "images", classes=2, images=10)
    for i in (7, 8, 9):
        (root / "images" / "class01" / f"{i}.png").unlink()
    return root


@pytest.fixture(scope="module")
def made(small, home):
    """Compose a training on it: made("key=value"), without the words for tiny episodes."""

    def composed(*words: str):
        where = (f"data.root={home / 'images'}", f"data.cache={home / 'cache'}")
        return small(*PLAIN, *SHORT, *where, "task.train_way=null", *words)

    return composed


@pytest.fixture(scope="module")
def folds(made, home) -> tuple[Path, float]:
    """The folder of three folds, and what the training returned."""
    return home / "run", train.run(made(f"eval.folds={FOLDS}"), home / "run")


def test_each_image_is_tested_once_by_a_net_that_did_not_see_it(folds, made):
    out, _ = folds
    seen = []
    for k in range(FOLDS):
        saved = checkpoint.load(out / f"fold{k}" / "best.pt")
        own = made(f"data.folds={FOLDS}", f"data.fold={k}")
        split = build(own.data, "data").load("test")
        assert not set(split.image_ids) & set(saved["classes"])
        seen += split.files
    assert len(seen) == len(set(seen)) == 17


def test_the_means_are_those_of_the_runs_evaluated_by_hand(folds, made, tmp_path):
    out, _ = folds
    by_hand, images = [], []
    for k in range(FOLDS):
        cfg = made(f"data.folds={FOLDS}", f"data.fold={k}")
        evaluate.run([(out / f"fold{k}", cfg)], tmp_path / str(k))
        by_hand.append(record(tmp_path / str(k) / "eval.json")["accuracy"])
        with (tmp_path / str(k) / "episodes.csv").open() as file:
            images += [float(row["accuracy"]) for row in csv.DictReader(file)]
    found = record(out / "folds.json")
    evaluate.run([(out / "fold0", made(f"data.folds={FOLDS}", "eval.split=val"))], tmp_path / "val")
    assert record(tmp_path / "val" / "eval.json")["accuracy"] == found["folds"][0]["validation"]
    assert [fold["accuracy"] for fold in found["folds"]] == by_hand
    assert found["over_folds"]["accuracy"] == pytest.approx(np.mean(by_hand))
    half = t.ppf(0.975, FOLDS - 1) * np.std(by_hand, ddof=1) / FOLDS**0.5
    assert found["over_folds"]["ci95"] == pytest.approx(half)
    assert found["over_images"]["images"] == len(images) == 17
    assert found["over_images"]["accuracy"] == pytest.approx(np.mean(images))
    half = t.ppf(0.975, 16) * np.std(images, ddof=1) / 17**0.5
    assert found["over_images"]["ci95"] == pytest.approx(half)


def test_a_fold_is_what_its_own_training_gives_and_the_value_is_their_mean_validation(folds, made, tmp_path):
    out, value = folds
    best = train.run(made(f"data.folds={FOLDS}", "data.fold=1"), tmp_path / "alone")
    assert best == record(out / "folds.json")["folds"][1]["validation"]
    one, other = (checkpoint.load(folder / "last.pt")["net"] for folder in (tmp_path / "alone", out / "fold1"))
    assert all(one[key].equal(other[key]) for key in one)
    assert value == pytest.approx(np.mean([fold["validation"] for fold in record(out / "folds.json")["folds"]]))


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was_stopped(folds, made, tmp_path):
    whole, value = folds
    words = (f"eval.folds={FOLDS}",)
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "folds.json").unlink()
    for file in (tmp_path / "run" / "fold2").iterdir():  # as if it had been stopped before the last fold
        file.unlink()
    before = (tmp_path / "run" / "fold0" / "last.pt").stat().st_mtime_ns
    assert train.run(made(*words), tmp_path / "run") == value
    assert (tmp_path / "run" / "fold0" / "last.pt").stat().st_mtime_ns == before
    again, first = (record(folder / "folds.json") for folder in (tmp_path / "run", whole))
    assert [fold["accuracy"] for fold in again["folds"]] == [fold["accuracy"] for fold in first["folds"]]
    with pytest.raises(UserError, match=r"resume goes on with the same run .* not optim\.lr=0\.5"):
        train.run(made(*words, "optim.lr=0.5"), tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("data.protocol=classes",),
            r"eval\.folds=3: folds are of the images of your own folder.* data\.protocol=images",
        ),
        (("data=mnist",), r"eval\.folds=3: folds are of the images of your own folder"),
        (("data.folds=3",), r"eval\.folds=3 with data\.folds=3: .* leave one out"),
        (("eval.split=val",), r"eval\.split=val: eval\.folds tests each image once; leave out eval\.split"),
        (("eval.folds=8",), r"1 classes have too few images: class01 \(7\); 8 are needed, one for each fold"),
        (("eval.folds=1",), r"eval\.folds=1: expected 2 or more"),
        (("resume=somewhere",), r"eval\.folds=3 with resume=somewhere: .* the command that began them"),
    ],
)
def test_what_has_no_folds_is_refused_before_any_training(made, tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        train.run(made("eval.folds=3", *words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_trains_no_folds(folds, made, tmp_path):
    out, _ = folds
    with pytest.raises(
        UserError, match=r"eval\.folds=3: a net is trained for each fold, by metalab train eval\.folds=3"
    ):
        evaluate.run([(out / "fold0", made("eval.folds=3"))], tmp_path / "eval")


@pytest.mark.slow
@real
def test_two_classes_of_photographs_from_the_command_line(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    photos(tmp_path / "images", {"dog": 20, "guitar": 20})
    own = (f"data.root={tmp_path / 'images'}", *PLAIN)
    code, said = command_line("train", *own, *SHORT, "hydra.run.dir=one")
    assert code == 0, said
    code, said = command_line("eval", "run=one", "hydra.run.dir=eval")
    assert (code, "plain classification, 2 classes" in said) == (0, True)
    held = record(tmp_path / "eval" / "eval.json")
    assert (held["images"], "overlap" in held) == (8, False)
    code, said = command_line("eval", "run=one", "data.seed=1")
    assert code == 1
    assert "of the 8 images of the test split" in said
    photos(tmp_path / "new", {"dog": 5, "guitar": 4}, start=50)
    code, said = command_line(
        "eval", "run=one", f"data.root={tmp_path / 'new'}", "data.ratios=[0,0,1]", "hydra.run.dir=new2"
    )
    assert code == 0, said
    assert record(tmp_path / "new2" / "eval.json")["images"] == 9
    code, said = command_line("train", *own, *SHORT, "eval.folds=2", "hydra.run.dir=folds")
    assert code == 0, said
    assert "mean" in said
    found = record(tmp_path / "folds" / "folds.json")
    assert found["over_images"]["images"] == 40
    assert record(tmp_path / "folds" / "eval" / "eval.json")["mean"] == pytest.approx(found["over_folds"]["accuracy"])
    code, said = command_line("train", "resume=folds/fold0", "train.steps=6")
    assert code == 0, said
    for words, expected in ((("check",), "all classes in each split"), (("show", "split=val"), "folder_val_sheet.png")):
        code, said = command_line("data", words[0], "folder", own[0], *PLAIN[1:3], *words[1:])
        assert (code, expected in said) == (0, True), said
    assert (tmp_path / "folder_val_sheet.png").is_file()


def test_what_trains_on_episodes_is_told_of_a_plain_classifier(small, home, tmp_path):
    where = (f"data.root={home / 'images'}", f"data.cache={home / 'cache'}", "task.train_way=null", "eval.folds=3")
    with pytest.raises(UserError, match=r"algo=protonet trains on episodes: type algo=baseline, or .*=classes$"):
        train.run(small(*PLAIN[:3], *where), tmp_path / "run")
    assert not (tmp_path / "run").exists()
