"""`metalab eval eval.corrupt=...`: on which episodes, with which images, what is written and what is refused."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalab.config.experiment import read_config
from metalab.core.errors import UserError
from metalab.data.corruptions.build import KINDS
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation import evaluate
from metalab.evaluation.corruptions import measured
from metalab.evaluation.corruptions.source import CorruptedSource
from metalab.evaluation.setup import build_evaluation_setup
from metalab.models.layers import running_statistics
from metalab.training import train

RUNS = {
    "protonet": ("train.steps=6", "train.val_every=6"),
    "maml": ("algo=maml", "train.meta_batch=1", "algo.test_steps=1", "train.bn=support", "eval.bn=support"),
}
SOME = ("eval.corrupt=[contrast,gaussian_noise]", "eval.severities=[1,5]")


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    train.run(small(*RUNS["protonet"]), home / "protonet")
    return {name: home / name for name in RUNS}


@pytest.fixture
def result(small, runs, tmp_path):
    def evaluated(name: str, *overrides: str):
        out = tmp_path / f"eval{len(list(tmp_path.iterdir()))}"
        evaluate.run([(runs[name], small(*RUNS[name], "data.absent=''", *overrides))], out)
        return json.loads((out / "eval.json").read_text()), out

    return evaluated


@pytest.mark.slow
def test_every_kind_and_severity_is_reported_beside_the_clean_accuracy(result, capsys):
    clean, _ = result("protonet")
    capsys.readouterr()
    record, out = result("protonet", "eval.corrupt=all", "eval.severities=[5,1]")
    found = record.pop("corruptions")
    note = record.pop("note")
    assert record == clean  # on the same episodes, which corruptions leave as they are
    assert "frost" in note
    assert list(found["kinds"]) == list(KINDS)
    assert all(list(values) == ["1", "5", "mean"] for values in found["kinds"].values())
    means = []
    for values in found["kinds"].values():
        assert values["mean"]["accuracy"] == pytest.approx((values["1"]["accuracy"] + values["5"]["accuracy"]) / 2)
        assert all(value["ci95"] >= 0 for value in values.values())
        means.append(values["mean"]["accuracy"])
    assert found["mean"]["accuracy"] == pytest.approx(np.mean(means))
    assert found["relative_drop"] == pytest.approx(1 - np.mean(means) / record["accuracy"])
    assert found["on"] == "query"
    with (out / "corruptions.csv").open() as file:
        rows = list(csv.DictReader(file))
    by = {(row["kind"], row["severity"]): float(row["accuracy"]) for row in rows}
    assert len(rows) == len(by) == 1 + 15 * 3 + 1
    assert by["clean", "0"] == record["accuracy"]
    assert by["fog", "5"] == found["kinds"]["fog"]["5"]["accuracy"]
    events = EventAccumulator(str(out), {"images": 0, "scalars": 0}).Reload()
    assert events.Scalars("corrupt/fog_5/accuracy")[0].value == pytest.approx(by["fog", "5"])
    assert {"corrupt/chart", "test/corrupted"} <= set(events.Tags()["images"])
    assert (out / "corruptions.png").stat().st_size > 5000
    sheet = np.asarray(Image.open(out / "corrupted.png"))
    assert sheet.shape[0] > 15 * 90
    assert sheet.shape[1] > 3 * 90
    said = " ".join(capsys.readouterr().out.split())
    assert f"corrupted {100 * np.mean(means):.2f}" in said
    assert "mean of 15 kinds at severity 1, 5, on query" in said
    assert "jpeg compression" in said


@pytest.mark.parametrize("on", ["query", "support", "both"])
def test_the_numbers_are_those_of_episodes_corrupted_by_hand(small, runs, result, on):
    """Contrast draws nothing: each image, moved to its mean, goes to the nearest prototype in a plain loop."""
    words = ("eval.bn=running", "eval.episodes=4", "eval.batch=2", "eval.report=false")
    record, _ = result("protonet", *words, "eval.corrupt=contrast", "eval.severities=[5]", f"eval.corrupt_on={on}")
    t = build_evaluation_setup(runs["protonet"], read_config(small(*RUNS["protonet"], "data.absent=''", *words)))
    right = []
    for support, query in (t.source(t.task)(step) for step in (0, 1)):
        x = {"support": support.x, "query": query.x}
        for part in x if on == "both" else [on]:
            mean = x[part].mean((-2, -1), keepdim=True)
            x[part] = mean + 0.15 * (x[part] - mean)
        for i in range(2):
            with torch.no_grad(), running_statistics():
                known, asked = (t.net.eval()("features", x[part][i]).flatten(1) for part in x)
            centres = torch.stack([known[support.y[i] == c].mean(0) for c in range(t.task.way)])
            right.append((torch.cdist(asked, centres).argmin(1) == query.y[i]).double().mean().item())
    assert record["corruptions"]["mean"]["accuracy"] == pytest.approx(np.mean(right), abs=1e-9)


def test_images_are_the_same_in_batches_of_any_size_and_in_every_run(tiny):
    def source(tasks: int, seed: int = 0) -> CorruptedSource:
        drawn = EpisodeSampler(tiny["test"], 3, 1, 2, tasks, 0, "test", torch.device("cpu"))
        return CorruptedSource(drawn, "glass_blur", 3, "both", seed, "test")

    together = torch.cat([source(2)(step).query.x for step in (0, 1)])
    assert torch.equal(source(4)(0).query.x, together)
    assert torch.equal(source(4)(0).support.x, source(4)(0).support.x)
    assert not torch.equal(source(4, 1)(0).query.x, together)
    plain = EpisodeSampler(tiny["test"], 3, 1, 2, 4, 0, "test", torch.device("cpu"))(0)
    alone = replace(source(4), on="support")(0)
    assert torch.equal(alone.query.x, plain.query.x)
    assert not torch.equal(alone.support.x, plain.support.x)


@pytest.mark.parametrize("name", ["protonet", pytest.param("maml", marks=pytest.mark.slow)])
def test_both_engines_agree_and_again_gives_the_same(small, runs, result, name):
    if not runs[name].exists():
        train.run(small(*RUNS[name]), runs[name])
    words = (*SOME, "eval.corrupt_on=both", "eval.episodes=2", "eval.report=false")
    first, _ = result(name, *words, "engine=learn2learn")
    again, _ = result(name, *words, "engine=learn2learn")
    other, _ = result(name, *words, "engine=vectorized", "eval.batch=1")
    assert again == first
    assert other["corruptions"]["mean"]["accuracy"] == pytest.approx(first["corruptions"]["mean"]["accuracy"], abs=0.02)


def test_episodes_of_any_way_can_be_corrupted(result):
    words = ("task=variable", "task.way=6", "task.support=20", "task.query=2", "eval.episodes=3", "eval.report=false")
    record, _ = result("protonet", *words, *SOME)
    assert set(record["corruptions"]["kinds"]) == {"contrast", "gaussian_noise"}


def test_several_runs_are_shown_side_by_side(small, runs, tmp_path):
    cfg = small(*RUNS["protonet"], "data.absent=''", *SOME, "eval.episodes=2", "eval.report=false")
    evaluate.run([(runs["protonet"], cfg), (runs["protonet"], cfg)], tmp_path / "out")
    both = json.loads((tmp_path / "out" / "eval.json").read_text())["runs"]
    assert both[0]["corruptions"] == both[1]["corruptions"]
    with (tmp_path / "out" / "corruptions.csv").open() as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"0", "1"}
    assert (tmp_path / "out" / "corruptions.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["eval.corrupt=[fog,rain]"],
            "eval.corrupt=[fog,rain]: there is no corruption rain; type all, or one or several",
        ),
        (["eval.corrupt=[]"], "eval.corrupt=[]: expected kinds of corruption; type all"),
        (["eval.corrupt=all", "eval.severities=[0,3]"], "eval.severities=[0,3]: expected whole numbers from 1 to 5"),
        (["eval.corrupt=all", "eval.severities=[]"], "eval.severities=[]: expected whole numbers from 1 to 5"),
        (["eval.corrupt=fog", "attack=fgsm"], "eval.corrupt with attack=[fgsm]: an evaluation has common corruptions"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(small, runs, tmp_path, words, message):
    cfg = small(*RUNS["protonet"], "data.absent=''", *words)
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate.run([(runs["protonet"], cfg)], tmp_path / "out")


def test_training_refuses_it(small, tmp_path):
    with pytest.raises(UserError, match=re.escape("eval.corrupt=[fog] is for metalab eval run=... eval.corrupt=[fog]")):
        train.run(small("eval.corrupt=[fog]"), tmp_path / "run")


def test_a_comparison_has_the_clean_accuracy_alone(small):
    with pytest.raises(UserError, match=r"metalab compare shows no corruptions: leave out eval.corrupt=\[fog\]"):
        measured.refuse_comparison(read_config(small("eval.corrupt=[fog]")).eval)


def test_the_sheet_has_each_picture_under_its_severity(small, runs):
    words = (
        "data.absent=''",
        "eval.bn=running",
        "eval.episodes=2",
        "eval.corrupt=[contrast]",
        "eval.severities=[5,1,5]",
    )
    t = build_evaluation_setup(runs["protonet"], read_config(small(*RUNS["protonet"], *words)))
    found = measured.measure_corruptions(t, t.source(t.task), np.ones(2))
    assert found.severities == [1, 5]
    _, mild, strong = found.examples["contrast"]
    assert mild.std() > strong.std()
