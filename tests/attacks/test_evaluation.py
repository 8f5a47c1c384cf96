"""`metalab eval attack=...`: what is reported, that it is never better than clean, and what is refused."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalab import evaluate, train
from metalab.attacks.fgsm import FGSM
from metalab.attacks.pgd import PGD
from metalab.attacks.records import mismatch
from metalab.attacks.steps import Try
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorised import Vectorised
from metalab.errors import UserError
from metalab.interfaces import Batch, Episode
from metalab.models.layers import running_statistics
from metalab.objectives.judge import PREDICTIONS, cross_entropy
from metalab.objectives.robust import Robust
from tests.attacks.nets import CASES, episodes, net_of

RUNS = {
    "protonet": ("train.steps=20", "train.val_every=20"),
    "maml": ("algo=maml", "train.meta_batch=1", "algo.test_steps=1", "train.bn=support", "eval.bn=support"),
}


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        train.run(small(*words), home / name)
    return {name: home / name for name in RUNS}


@pytest.fixture
def result(small, runs, tmp_path):
    def evaluated(name: str, *overrides: str):
        out = tmp_path / f"eval{len(list(tmp_path.iterdir()))}"
        cfg = small(*RUNS[name], "data.absent=''", *overrides)
        evaluate.run([(runs[name], cfg)], out)
        return json.loads((out / "eval.json").read_text()), out

    return evaluated


@pytest.mark.parametrize("name", RUNS)
def test_clean_and_attacked_accuracy_are_of_the_same_episodes(result, name, capsys):
    words = ("attack=[fgsm,pgd]", "attack.pgd.steps=4", "eval.eps=[0,16,64]")
    record, out = result(name, *words, "eval.episodes=5", "eval.batch=2")
    attacks = record["attacks"]
    assert [(a["name"], a["eps"]) for a in attacks] == [(n, e) for n in ("fgsm", "pgd", "all") for e in (0, 16, 64)]
    keys = {"name", "norm", "on", "eps", "steps", "accuracy", "ci95", "zero_gradients"}
    assert all(set(a) == keys for a in attacks)
    assert {a["steps"] for a in attacks if a["name"] == "pgd"} == {4}
    assert {a["accuracy"] for a in attacks if a["eps"] == 0} == {record["accuracy"]}  # eps 0 is clean, exactly
    by = {(a["name"], a["eps"]): a["accuracy"] for a in attacks}
    assert max(by.values()) <= record["accuracy"]
    assert by["pgd", 64] < record["accuracy"]
    assert all(by["all", e] <= min(by["fgsm", e], by["pgd", e]) for e in (0, 16, 64))
    assert all(0 <= a["zero_gradients"] <= 1 for a in attacks if a["name"] != "all")
    with (out / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [a["accuracy"] for a in attacks]
    assert (out / "robustness.png").stat().st_size > 5000
    events = EventAccumulator(str(out), {"images": 0, "scalars": 0}).Reload()
    assert events.Scalars("robust/pgd_64_255ths/accuracy")[0].value == pytest.approx(by["pgd", 64])
    assert "robust/curve" in events.Tags()["images"]
    said = " ".join(capsys.readouterr().out.split())
    assert "pgd 64/255" in said
    assert "on query, linf, 4 steps" in said
    assert "note" not in record
    again, _ = result(name, *words, "eval.episodes=5", "eval.batch=2")
    assert again == record  # the random starts, too, come from the seed


@pytest.mark.parametrize("on", ["support", "both"])
def test_the_support_can_be_attacked(result, on):
    words = ("attack=pgd", "attack.pgd.steps=3", "eval.eps=[0,64]")
    record, _ = result("protonet", *words, f"attack.on={on}")
    zero, much = (a["accuracy"] for a in record["attacks"])
    assert zero == record["accuracy"]
    assert much < record["accuracy"]
    query, _ = result("protonet", *words)
    assert (much <= query["attacks"][1]["accuracy"]) == (on == "both")


def test_a_transductive_mode_is_refused_and_another_than_the_trainings_is_noted(result):
    with pytest.raises(UserError, match=re.escape("an attack with bn=batch: an attacked query would change")):
        result("protonet", "attack=fgsm", "eval.bn=batch")
    assert "note" not in result("protonet", "attack=fgsm")[0]
    record, _ = result("protonet", "attack=fgsm", "eval.bn=support")
    assert record["note"] == "attacked with bn=support, trained with train.bn=batch"
    assert mismatch("running", "support") == "attacked with bn=running, trained with train.bn=support"
    assert mismatch("one", "support") == ""


def test_an_attack_is_never_inherited(command_line, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.run(small("attack=fgsm", "attack.eps=3", "train.steps=1"), tmp_path / "run")
    words = ("eval", "--cfg", "job", "run=run", "device=cpu")
    code, said = command_line(*words)
    assert code == 0, said
    assert "fgsm" not in said
    assert "eps: 8.0" in said
    assert "eps: 4" in command_line(*words, "attack=pgd", "attack.eps=4")[1]


# ---- what is measured


def robust(case: str, bn: str, **given) -> Robust:
    algorithm, _, steps = CASES[case]
    attacks = {"pgd": PGD(0.1, "linf", 3, None, False, 1, "cross_entropy"), "f": FGSM(0.1, "l2", None, False, "margin")}
    return Robust(algorithm, steps, cross_entropy, PREDICTIONS[bn], attacks, given.get("on", "query"))


@pytest.mark.parametrize("on", ["query", "support", "both"])
@pytest.mark.parametrize("case", ["maml", "anil", "reptile", "protonet"])
@pytest.mark.parametrize("bn", ["support", "running"])
def test_both_engines_find_the_same(case, bn, on):
    objective, net = robust(case, bn, on=on), net_of(CASES[case][0]).eval()
    a, b = (evaluate.outcome(e, objective, net, episodes(), bn) for e in (Learn2Learn(), Vectorised(None)))
    assert torch.equal(a.correct, b.correct)
    assert set(a.scalars) == {"loss", "right/pgd", "right/f", "zero/pgd", "zero/f"}
    assert all(torch.equal(a.scalars[k], b.scalars[k]) for k in a.scalars)


@pytest.mark.parametrize(("bn", "alone"), [("support", True), ("running", True), ("batch", False)])
def test_an_attack_differentiates_the_mode_that_predicts(bn, alone):
    """The gradient of one query's loss reaches the other queries in batch mode alone."""
    algorithm, _, steps = CASES["maml"]
    net = net_of(algorithm)
    support, query = task(episodes(), 0)
    learner = TaskLearner(net, False)
    *_, model = algorithm.adapt(learner, support, cross_entropy, steps)  # type: ignore[arg-type]

    def first(x: torch.Tensor) -> torch.Tensor:
        return cross_entropy(lambda z: PREDICTIONS[bn](model, support.x, z)[:1], Batch(x, query.y[:1], x[:0]))

    with running_statistics() if bn == "running" else torch.enable_grad():
        slope = torch.func.grad(first)(query.x)
    assert slope[0].any()
    assert slope[1:].any() != alone


def test_a_support_attack_raises_the_loss_of_the_unadapted_model():
    algorithm = CASES["maml"][0]
    net = net_of(algorithm)
    support = task(episodes(), 0).support
    learner = TaskLearner(net, False)
    objective = robust("maml", "running", on="support")
    dead: list[torch.Tensor] = []
    [attacked] = objective._supports(learner, support, objective.attacks["pgd"], dead)  # type: ignore[arg-type]
    assert cross_entropy(learner, attacked) > cross_entropy(learner, support) + 0.01
    expected = objective.attacks["pgd"](learner, support.x, support.y)
    torch.testing.assert_close(attacked.x, expected)
    assert torch.equal(attacked.y, support.y)


@dataclass(frozen=True)
class Script:
    """An attack that tries the given images in turn and ends at the last."""

    images: tuple[torch.Tensor, ...]
    steps: int = 1

    def tries(self, model, x, y) -> Iterator[Try]:
        for image in self.images:
            yield Try(image.expand_as(x), None, None)

    def __call__(self, model, x, y):
        return self.images[-1].expand_as(x)


def test_an_image_is_robust_only_if_it_is_right_clean_and_at_every_try():
    def model(x: torch.Tensor) -> torch.Tensor:  # says class 1 above 1/2
        return torch.stack([0.5 - x, x - 0.5], 1).reshape(len(x), 2)

    class Fixed:
        def parts(self, body, features):
            return {}

        def adapt(self, learner, support, loss, steps):
            yield model

    dark, light = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    query = Batch(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1), torch.tensor([1, 1]), torch.zeros(0, 1, 1, 1))
    scripts = {"good": (light, light), "between": (light, dark, light), "end": (light, dark)}
    attacks = {name: Script(images) for name, images in scripts.items()}
    objective = Robust(Fixed(), 0, cross_entropy, PREDICTIONS["running"], attacks, "query")
    found = objective(model, Episode(query, query), torch.zeros(())).scalars  # type: ignore[arg-type]
    assert found["right/good"].tolist() == [True, False]  # an attack that helps does not count
    assert found["right/between"].tolist() == [False, False]
    assert found["right/end"].tolist() == [False, False]
