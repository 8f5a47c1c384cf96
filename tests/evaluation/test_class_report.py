"""What an evaluation says of its classes: counted again in plain Python, from another objective's predictions."""

import csv
import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from metalab.algorithms.objectives.build import by_way
from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.core.interfaces import FixedEpisodes, Split
from metalab.core.statistics import mean_ci95
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation import evaluate
from metalab.evaluation.adaptation_curve import AdaptationCurve
from metalab.evaluation.classifier_report import classifier_report
from metalab.evaluation.episode_classes import class_names
from metalab.evaluation.episode_report import episode_report
from metalab.training import train
from tests.configs import evaluation_setup

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(small, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("report")
    train.run(small(), home / "run")
    return home / "run"


@pytest.fixture
def tested(small):
    """Compose an evaluation: tested("key=value")."""
    return lambda *words: small("data.absent=''", *words)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def judged(run: Path, cfg, episodes: int) -> tuple[Counter, dict[str, list[float]]]:
    """Return how often each class was taken for each, and the share of it that is right in each episode with it."""
    t = evaluation_setup(run, cfg)
    inner = t.terms.inner(t.algo.loss)
    curve = by_way(t.task, t.test_algorithm, lambda a, way: AdaptationCurve(a, t.algo.steps, inner, PREDICTIONS[t.bn]))
    source, names = t.source(t.task), class_names(t.split)
    pairs, shares, seen, step = Counter(), defaultdict(list), 0, 0
    while seen < episodes:
        given = source(step)
        answers = t.outcome(curve, given).scalars["predicted"]
        for classes, true, taken in zip(source.indices(step).classes, given.query.y, answers, strict=True):
            if seen < episodes:
                said = [(names[classes[a]], names[classes[b]]) for a, b in zip(true, taken, strict=True)]
                pairs.update(said)
                for name in dict.fromkeys(a for a, _ in said):
                    own = [b == name for a, b in said if a == name]
                    shares[name].append(sum(own) / len(own))
            seen += 1
        step += 1
    return pairs, shares


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("engine=vectorized",), ("task=variable", "task.way=8", "task.shot=3")])
def test_every_query_of_every_episode_is_counted_by_its_class(tested, run, tmp_path, words):
    cfg = tested("eval.episodes=11", "eval.batch=4", *words)
    evaluate.run([(run, cfg)], tmp_path)
    pairs, shares = judged(run, cfg, 11)
    confused = {(row["true"], row["predicted"]): int(row["count"]) for row in rows(tmp_path / "confusion.csv")}
    assert confused == dict(pairs)
    table = rows(tmp_path / "per_class.csv")
    assert {row["class"] for row in table} == set(shares)
    for row in table:
        mean, half = mean_ci95(shares[row["class"]])
        assert float(row["accuracy"]) == pytest.approx(mean, abs=1e-12)
        assert float(row["ci95"]) == pytest.approx(half, abs=1e-12, nan_ok=True)
        assert int(row["episodes"]) == len(shares[row["class"]])
        others = Counter({b: n for (a, b), n in pairs.items() if a == row["class"] != b})
        assert others[row["taken_for"]] == max(others.values(), default=0)
    assert [float(row["accuracy"]) for row in table] == sorted(float(row["accuracy"]) for row in table)
    record = json.loads((tmp_path / "eval.json").read_text())
    hardest = record["hardest_classes"]
    assert [each["class"] for each in hardest] == [row["class"] for row in table[:5]]
    assert (tmp_path / "worst_episodes.png").is_file()
    assert (tmp_path / "confusion.png").is_file()


def test_without_a_report_the_numbers_are_the_same_and_nothing_is_beside_them(tested, run, tmp_path):
    evaluate.run([(run, tested())], tmp_path / "with")
    evaluate.run([(run, tested("eval.report=false"))], tmp_path / "without")
    one, two = (json.loads((tmp_path / out / "eval.json").read_text()) for out in ("with", "without"))
    assert {key: value for key, value in one.items() if key != "hardest_classes"} == two
    assert (tmp_path / "with/episodes.csv").read_bytes() == (tmp_path / "without/episodes.csv").read_bytes()
    left = {path.name for path in (tmp_path / "without").iterdir() if "tfevents" not in path.name}
    assert left == {"eval.json", "episodes.csv"}


def test_of_several_runs_all_are_in_the_tables_and_pictures_are_of_one(tested, run, tmp_path, monkeypatch):
    drawn = []
    real = evaluate.ClassReporting.report
    monkeypatch.setattr(evaluate.ClassReporting, "report", lambda *a: drawn.append(real(*a)[1]) or real(*a))
    evaluate.run([(run, tested()), (run, tested("seed=3"))], tmp_path)
    assert {row["run"] for row in rows(tmp_path / "per_class.csv")} == {"0", "1"}
    assert [sorted(each.pictures) for each in drawn] == [["confusion", "worst_episodes"], []]


def test_a_temperature_of_episodes_is_refused_before_any_work(tested, run, tmp_path):
    with pytest.raises(UserError, match=r"^eval\.temperature=fit scales .* these are episodes: type eval\.temp"):
        evaluate.run([(run, tested("eval.temperature=fit"))], tmp_path)
    assert not (tmp_path / "eval.json").exists()


def fixed_split() -> Split:
    """Return 6 classes of 2 images, an image being its class, and two given episodes of three of them."""
    images = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    names = [f"a/{k}" for k in range(6)]
    split = Split(images, torch.arange(6) * 2, torch.full((6,), 2), [f"x:{n}" for n in names], names)
    return replace(split, fixed=FixedEpisodes(torch.tensor([[0, 2, 4], [5, 3, 1]]), 1, 1, ["one", "two"], {}))


def test_given_episodes_are_counted_and_what_is_no_number_is_no_class(tmp_path):
    split = fixed_split()
    source = EpisodeSampler(split, 3, 1, 1, 2, 0, "test", CPU)
    task = Task(3, 1, 1, None, None, None)
    predictions = [torch.tensor([[0, 0, 2], [-1, 1, 2]])]
    facts, report = episode_report(split, task, source, predictions, np.array([2 / 3, 2 / 3]), True)
    pairs = zip(report.confusion.true, report.confusion.predicted, report.confusion.count, strict=True)
    assert sorted((int(a), int(b), int(n)) for a, b, n in pairs) == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 0, 1),
        (3, 3, 1),
        (4, 4, 1),
        (5, -1, 1),
    ]
    assert report.confusion.matrix().sum() == 5
    assert [each["class"] for each in facts["hardest_classes"]][:2] == ["x:a/2", "x:a/5"]
    assert [each["taken_for"] for each in facts["hardest_classes"]][:2] == ["x:a/0", ""]
    assert report.pictures["worst_episodes"]().shape[2] == 3


def test_rotations_that_share_an_id_are_told_apart():
    split = fixed_split()
    split = replace(split, ids=["o:G/1", "o:G/1", *split.ids[2:]], names=["G/1/rot000", "G/1/rot090", *split.names[2:]])
    assert class_names(split)[:3] == ["o:G/1/rot000", "o:G/1/rot090", "x:a/2"]
    own = replace(split, ids=["folder:6dfa0305", "folder:183c173f", "x:a"], names=["dog", "cat", "a"])
    assert class_names(own) == ["dog", "cat", "x:a"]  # and not what their images come to
    twins = replace(own, names=["dog", "dog", "a"])
    assert class_names(twins) == ["dog (folder:6dfa0305)", "dog (folder:183c173f)", "x:a"]


def test_a_classifiers_numbers_are_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (300,), generator=generator)  # class 5 has no image, and class 4 is never predicted
    logits = torch.randn(300, 6, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 6)
    logits[:, 4] = -9
    logits[7] = torch.nan
    split = replace(fixed_split(), fixed=None)
    facts, report = classifier_report(logits, labels, split, 2.0, True)
    taken = logits.argmax(1)
    taken[7] = -1
    zero: Any = {"labels": range(6), "zero_division": 0}
    expected: Any = precision_recall_fscore_support(labels, taken, **zero)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert list(report.columns[key]) == values.tolist()
        assert [facts["classes"][name][key] for name in split.ids] == values.tolist()
    assert facts["averages"]["macro"]["f1"] == pytest.approx(np.mean(expected[2]), abs=1e-12)
    by_hand = {name: ((labels == k) & (taken == k)).sum().item() for k, name in enumerate(split.names)}
    for k, name in enumerate(split.names[:5]):
        assert facts["classes"][split.ids[k]]["recall"] == by_hand[name] / (labels == k).sum().item()
    assert facts["calibration"]["scaled"]["ece"] != facts["calibration"]["ece"]
    assert set(report.pictures) == {"confusion", "reliability", "reliability_scaled"}
    assert "a/3" in report.text
    assert "macro avg" in report.text


def test_the_pictures_can_be_read(tested, run, tmp_path):
    evaluate.run([(run, tested("eval.episodes=12"))], tmp_path)
    with Image.open(tmp_path / "worst_episodes.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x1B, 0x8A, 0x3A), (0xD6, 0x27, 0x28), (0x66, 0x66, 0x66)):  # right, wrong, support
        assert (pixels == colour).all(1).sum() > 200
