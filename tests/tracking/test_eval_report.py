"""Evaluation reports: the numbers, the files, the table."""

import csv
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalab.core.statistics import mean_ci95
from metalab.tracking import eval_report

RUN = {
    "way": 5,
    "shot": 1,
    "query": 15,
    "split": "test",
    "data": "miniimagenet",
    "algo": "protonet",
    "bn": "batch",
    "transductive": True,
    "seed": 0,
    "checkpoint": "outputs/train/2026-11-21/07-52-01-123456/best.pt",
}


def show(tmp_path, runs, accuracies, width=80):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=False, width=width, highlight=False)
    whole = eval_report.write(tmp_path, runs, accuracies, console)
    return whole, screen.getvalue()


def test_mean_and_interval_by_hand():
    mean, ci95 = mean_ci95([0.5, 0.7, 0.9, 0.7])
    assert mean == pytest.approx(0.7)
    assert ci95 == pytest.approx(3.182446 * math.sqrt((0.04 + 0 + 0.04 + 0) / 3) / 2)
    assert mean_ci95(np.array([0.25]))[0] == 0.25
    assert math.isnan(mean_ci95([0.25])[1])
    with pytest.raises(ValueError, match="a mean of no values: expected at least one episode"):
        mean_ci95([])


@pytest.mark.parametrize(("values", "t"), [(2, 12.706205), (5, 2.776445), (20, 2.093024), (600, 1.963932)])
def test_the_interval_of_few_values_is_students(values, t):
    """1.96 stood where n is 20, the runs of the one-shot challenge; the right values are a table's of Student's t."""
    drawn = np.random.default_rng(0).random(values)
    assert mean_ci95(drawn)[1] == pytest.approx(t * drawn.std(ddof=1) / values**0.5, rel=1e-6)


@pytest.mark.parametrize("episodes", [5, 20, 100])
def test_interval_covers_in_95_of_100(episodes):
    draws = np.random.default_rng(0).binomial(75, 0.6, size=(4000, episodes)) / 75
    inside = [abs(mean - 0.6) <= ci95 for mean, ci95 in map(mean_ci95, draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


def test_one_run(tmp_path):
    accuracies = [0.5, 0.7, 0.9, 0.7]
    whole, said = show(tmp_path, [RUN | {"loss": 0.81, "note": "re-encoded, JPEG q75"}], [accuracies])
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written == whole
    assert list(written) == ["accuracy", "ci95", "episodes", *RUN, "loss", "note"]
    assert (written["accuracy"], written["episodes"]) == (pytest.approx(0.7), 4)
    assert written["ci95"] == pytest.approx(mean_ci95(accuracies)[1])
    for words in (
        "70.00 ± 25.98 %",
        "5-way 1-shot, 15 queries a class",
        "miniimagenet, test split",
        "batch, transductive",
        "3.18 sd / sqrt(4 episodes)",
        "re-encoded, JPEG q75",
        RUN["checkpoint"],
    ):
        assert words in said
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("test/accuracy")] == [(0, pytest.approx(0.7))]
    assert [(e.step, e.value) for e in events.Scalars("test/ci95")] == [(0, pytest.approx(0.25985, abs=1e-4))]


def test_several_runs(tmp_path):
    runs = [RUN | {"checkpoint": f"outputs/{i}/best.pt"} for i in range(3)]
    whole, said = show(tmp_path, runs, [[0.5, 0.7], [0.6, 0.8], [0.9, 0.9]])
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written == whole
    assert [run["accuracy"] for run in written["runs"]] == pytest.approx([0.6, 0.7, 0.9])
    assert set(written) == {"runs", "mean", "sd"}
    assert written["mean"] == pytest.approx(2.2 / 3)
    assert written["sd"] == pytest.approx(np.std([0.6, 0.7, 0.9], ddof=1))
    assert "mean ± sd of 3 runs" in said
    assert "73.33 ± 15.28 %" in said
    with (tmp_path / "episodes.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["run", "episode", "accuracy"]
    assert rows[4] == ["1", "1", "0.8"]
    assert len(rows) == 7
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("test/accuracy")] == [0, 1, 2]


def test_runs_of_two_algorithms_have_no_mean(tmp_path):
    _, said = show(tmp_path, [RUN, RUN | {"algo": "maml"}], [[0.5, 0.7], [0.6, 0.8]])
    written = json.loads((tmp_path / "eval.json").read_text())
    assert (written["mean"], written["sd"]) == (None, None)
    assert "mean" not in said


def test_runs_that_differ_say_in_what(tmp_path):
    other = RUN | {"algo": "maml", "bn": "support", "transductive": False, "way": 20, "train_seed": 3}
    _, said = show(tmp_path, [RUN, other], [[0.5, 0.7], [0.6, 0.8]])
    assert "20-way 1-shot" in said
    assert "batch norm support, not transductive" in " ".join(said.replace("│", " ").split())
    assert "train seed 3" in said
    assert said.count("miniimagenet") == 1  # what is shared is said once


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_cut_off(tmp_path, width):
    long = "/somewhere/" + "deep/" * 30 + "[red]/best.pt"
    for runs in ([RUN | {"checkpoint": long}], [RUN | {"checkpoint": long}, RUN | {"algo": "maml", "bn": "running"}]):
        _, said = show(tmp_path, runs, [[0.55, 0.65]] * len(runs), width)
        assert "…" not in said
        assert max(map(len, said.splitlines())) <= width
        assert said.count("deep/") + said.replace("\n", "").replace(" ", "").count("deep/") >= 30
        assert "[red]/best.pt" in said.replace("\n", "").replace(" ", "")
        assert "60.00 ± 63.53 %" in said


def test_an_overlap_is_stamped(tmp_path):
    shared = [f"omniglot:Greek/character{i:02}" for i in range(12)]
    whole, said = show(tmp_path, [RUN | {"bn": None, "transductive": False, "overlap": shared}], [[0.5, 0.7]], 200)
    assert whole["overlap"] == shared
    assert f"overlap     12 classes: {', '.join(shared[:5])} and 7 more" in said
    assert "none, not transductive" in said


def test_one_episode_has_no_interval(tmp_path):
    _, said = show(tmp_path, [RUN], [[0.5]])
    assert json.loads((tmp_path / "eval.json").read_text())["ci95"] is None
    assert "50.00 %" in said
    assert "nan" not in said


def test_a_missing_fact_is_named(tmp_path):
    with pytest.raises(ValueError, match="an evaluation's record lacks bn, seed"):
        eval_report.write(tmp_path, [{key: RUN[key] for key in RUN if key not in ("bn", "seed")}], [[0.5]])
    assert not (tmp_path / "eval.json").exists()
