"""task=all_way where the data splits images: supports of training images, all test images asked; and eval.folds."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import classification_report

from metalab.models.layers import running_statistics
from tests.configs import evaluation_setup

CLASSES, IMAGES = 4, 12


def pictures(root: Path, images: int, begin: int = 0) -> None:
    """Write noisy pictures of one colour a class, which are told apart, but not all."""
    for k in range(CLASSES):
        for i in range(begin, begin + images):
            numbers = np.random.default_rng(1000 * k + i)
            colour = np.array([90 + 20 * k, 160 - 20 * k, 128]) + numbers.normal(0, 12, 3)
            path = root / f"class{k}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (colour + numbers.normal(0, 40, (32, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def typed(command_line, weights, tmp_path, monkeypatch):
    """Run `metalab eval run=null` on the pictures in `photos`: typed(*words) -> exit code, what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    net = ("backbone=torchvision", "backbone.name=mobilenet_v3_small", f"backbone.weights={weights}")
    data = ("data=folder", "data.root=photos", "data.size=32", "data.protocol=images", "algo=protonet", "device=cpu")

    def run(*words: str) -> tuple[int, str]:
        given = ("eval", "run=null", *net, "backbone.classes=none", *data, "hydra.run.dir=out", *words)
        return command_line(*given)

    return run


def record() -> dict:
    return json.loads(Path("out/eval.json").read_text())


def setup_of_the_same(typed, monkeypatch, *words):
    """Return what the evaluation was made of, which is built and not measured."""
    built = []

    def kept(pairs, out):
        built.extend(pairs)
        return 0.0

    monkeypatch.setattr("metalab.evaluation.evaluate.run", kept)
    assert typed("eval.embed=false", *words)[0] == 0
    return evaluation_setup(*built[0])


def features(setup, images) -> np.ndarray:
    with torch.no_grad(), running_statistics():
        return setup.net.eval()("features", images.float() / 255).flatten(1).double().numpy()


def nearest(means: list[np.ndarray], x: np.ndarray) -> int:
    return int(np.argmin([((x - mean) ** 2).sum() for mean in means]))


@pytest.mark.parametrize("embed", ["true", "false"])
def test_supports_are_training_images_and_all_test_images_are_asked(typed, monkeypatch, tmp_path, embed):
    pictures(tmp_path / "photos" / "train", IMAGES)
    pictures(tmp_path / "photos" / "test", 7, begin=500)
    words = ("task=all_way", "task.shot=3")
    code, said = typed(*words, f"eval.embed={embed}")
    assert code == 0, said
    found = record()
    setup = setup_of_the_same(typed, monkeypatch, *words)
    known, asked = setup.split.support, setup.split
    assert known is not None
    assert all(file.startswith("train") for file in known.files)
    assert all(file.startswith("test") for file in asked.files)
    owners = np.repeat(np.arange(CLASSES), known.count.numpy())
    of_known, of_asked = features(setup, known.images), features(setup, asked.images)
    truth = np.repeat(np.arange(CLASSES), 7)
    accuracies = []
    for draw in range(3):
        indices = setup.source(setup.task).indices(draw)
        chosen = indices.image[0, : 3 * CLASSES].tolist()
        assert owners[chosen].tolist() == indices.label[0, : 3 * CLASSES].tolist()
        assert sorted(indices.image[0, 3 * CLASSES :].tolist()) == list(range(len(truth)))
        means = [of_known[[i for i in chosen if owners[i] == k]].mean(0) for k in range(CLASSES)]
        accuracies.append(np.mean([nearest(means, x) == k for x, k in zip(of_asked, truth, strict=True)]))
    assert list(found["accuracy_of_each"].values()) == pytest.approx(accuracies)
    assert len(set(accuracies)) > 1
    assert (found["queries"], found["query"], found["support"]) == (7 * CLASSES, "all", "train split")
    assert f"all {7 * CLASSES} images as queries" in said
    assert "supports of the 40 training images" in found["note"]  # of 48, 8 are held out for validation


def test_a_class_with_fewer_images_than_shots_gives_what_it_has(typed, tmp_path):
    pictures(tmp_path / "photos" / "train", IMAGES)
    pictures(tmp_path / "photos" / "test", 3, begin=500)
    for i in range(6):
        (tmp_path / "photos" / "train" / "class2" / f"{i}.png").unlink()
    code, said = typed("task=all_way", "task.shot=8")
    assert code == 0, said
    assert "1 classes have fewer than 8 training images: class2 (5)" in record()["note"]
    assert typed("task=all_way", "task.shot=100")[0] == 0
    found = record()
    assert len(set(found["accuracy_of_each"].values())) == 1
    assert "all draws have the same support, all training images" in found["note"]


def test_folds_ask_each_image_once_by_all_others(typed, monkeypatch, tmp_path):
    pictures(tmp_path / "photos", IMAGES + 1)
    code, said = typed("eval.folds=3")
    assert code == 0, said
    found = record()
    setup = setup_of_the_same(typed, monkeypatch, "eval.folds=3")
    split, source = setup.split, setup.source(setup.task)
    assert split.fold is not None
    owners, of = np.repeat(np.arange(CLASSES), split.count.numpy()), features(setup, split.images)
    seen, by_query, right, accuracies = [], [], 0, []
    for fold in range(3):
        image = source.indices(fold).image[0].numpy()
        asked = np.flatnonzero(split.fold.numpy() == fold)
        known, queries = image[: len(owners) - len(asked)], image[len(owners) - len(asked) :]
        assert sorted(queries) == sorted(asked)
        assert sorted(image) == list(range(len(owners)))
        means = [of[known[owners[known] == k]].mean(0) for k in range(CLASSES)]
        hits = [nearest(means, of[i]) == owners[i] for i in queries]
        accuracies.append(np.mean(hits))
        right += sum(hits)
        seen += queries.tolist()
        by_query += [means] * len(queries)
        assert np.bincount(owners[queries], minlength=CLASSES).min() >= 4
    assert sorted(seen) == list(range(len(owners)))
    assert found["accuracy_of_each"] == pytest.approx({f"fold {k}": a for k, a in enumerate(accuracies)})
    assert found["over_images"]["accuracy"] == pytest.approx(right / len(owners))
    assert found["over_images"]["images"] == found["queries"] == len(owners)
    assert found["accuracy"] == pytest.approx(np.mean(accuracies))
    assert f"4-way, {len(owners)} images in 3 folds, each asked once" in said
    assert "the intervals are approximate" in found["note"]
    of_class = {row["class"]: row for row in csv.DictReader(Path("out/per_class.csv").read_text().splitlines())}
    guessed = np.array([nearest(means, of[i]) for means, i in zip(by_query, seen, strict=True)])
    report: Any = classification_report(owners[seen], guessed, target_names=split.names, output_dict=True)
    for name in split.names:
        for key, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert float(of_class[name][key]) == pytest.approx(report[name][theirs])
    assert found["averages"]["macro"]["f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert "macro avg" in said
    assert Path("out/confusion.png").is_file()
    rows = Path("out/per_class.csv").read_text().splitlines()
    at = rows[0].split(",").index("queries") - len(rows[0].split(","))
    assert sum(int(row.split(",")[at]) for row in rows[1:]) == len(owners)


@pytest.mark.parametrize("group", [r"(\d)\.png", None])
def test_a_group_stays_in_one_fold(typed, monkeypatch, tmp_path, group):
    pictures(tmp_path / "photos", 30)
    words = ("eval.folds=3", *([f"data.group='{group}'"] if group else []))
    split = setup_of_the_same(typed, monkeypatch, *words).split
    folds: dict[str, set[int]] = {}
    assert split.fold is not None
    for file, fold in zip(split.files, split.fold.tolist(), strict=True):
        folds.setdefault(file[-5], set()).add(fold)
    assert len(folds) == 10
    assert all(len(each) == 1 for each in folds.values()) is (group is not None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval.folds=13",), "classes have too few images"),
        (("eval.folds=3", "data.folds=3"), "both deal the images out"),
        (("eval.folds=3", "data.protocol=classes"), "folds are of the images of your own folder"),
        (("eval.folds=3", "eval.split=val"), "eval.folds tests each image once"),
        (
            ("eval.folds=3", "task=variable"),
            "is of episodes, and eval.folds=3 has none: type task.support=null, or task=f",
        ),
        (("eval.folds=3", "attack=pgd"), "attack=pgd is not measured with eval.folds=3"),
        (("task=all_way", "eval.split=train"), "would be asked again: type eval.split=test"),
        ((), "type task=all_way task.shot=16 for supports of the training images"),
    ],
)
def test_what_has_no_such_test_is_refused(typed, tmp_path, words, message):
    pictures(tmp_path / "photos", IMAGES)
    code, said = typed(*words)
    assert code == 1
    assert message in " ".join(said.split())
    assert not Path("out/eval.json").exists()


def test_other_images_of_the_same_names_have_features_of_their_own(typed, tmp_path):
    """A plain folder's ids and files say nothing of what its images show."""
    pictures(tmp_path / "photos", IMAGES)
    for k in range(CLASSES):
        for i in range(IMAGES):
            path = tmp_path / "noise" / f"class{k}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(100 * k + i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    found = {}
    for root, embed in (("photos", "true"), ("noise", "true"), ("noise", "false")):
        code, said = typed("eval.folds=3", f"data.root={root}", f"eval.embed={embed}")
        assert code == 0, said
        found[root, embed] = record()["accuracy_of_each"]
    assert found["noise", "true"] == found["noise", "false"] != found["photos", "true"]


def test_folds_hold_nothing_out_for_validation(typed, tmp_path):
    pictures(tmp_path / "photos", 2)
    code, said = typed("eval.folds=2")
    assert code == 0, said
    assert record()["queries"] == 2 * CLASSES


def test_folders_that_say_what_is_tested_have_no_folds(typed, tmp_path):
    pictures(tmp_path / "photos" / "train", IMAGES)
    pictures(tmp_path / "photos" / "test", 3, begin=500)
    code, said = typed("eval.folds=3")
    assert code == 1
    assert "eval.folds=3 tests each image once, and train/ and test/ say which are tested" in " ".join(said.split())


def test_what_is_left_out_of_the_support_stands_on_the_result(typed, tmp_path):
    pictures(tmp_path / "photos" / "train", IMAGES)
    pictures(tmp_path / "photos" / "test", 3, begin=500)
    (tmp_path / "photos" / "train" / "class0" / "broken.png").write_bytes(b"no image")
    code, said = typed("task=all_way", "task.shot=2")
    assert code == 0, said
    assert "1 of 49 images cannot be read and are left out" in record()["note"]


@pytest.mark.slow
def test_a_run_that_trained_on_the_training_images_may_be_asked_about_the_test_images(
    command_line, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path / "photos", IMAGES)
    words = ("data=folder", "data.root=photos", "data.size=32", "data.protocol=images", "device=cpu", "algo=baseline")
    code, said = command_line("train", *words, "train.steps=2", "train.val_every=2", "hydra.run.dir=run")
    assert code == 0, said
    asked = ("eval", "run=run", "task=all_way", "task.shot=2", "algo=simpleshot", "hydra.run.dir=out")
    code, said = command_line(*asked)
    assert code == 0, said
    assert "overlap" not in record()
    code, said = command_line(*asked, "data.seed=1")  # other test images, which were trained on
    assert code == 1
    assert "run was trained on" in said
