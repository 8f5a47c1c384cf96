"""MANN: the memory worked by hand, what is told when, accuracy by presentation, and what it answers."""

import json
import re
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalab.algorithms.memory_based.mann import MANN
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.objectives.sequence import SequenceLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.engines.vectorized import Vectorized
from metalab.evaluation import evaluate
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.models.pixels import Pixels
from metalab.training import train
from tests.algorithms.metric_cases import SIZE, WAY, apart, episodes, learner_of, net_of, one


def mann(learned=False, sharpness=1.0, slots=7, reads=2):
    return MANN(WAY, 6, slots, 5, reads, 0.95, sharpness, learned)


def pixels_net(algorithm):
    return net_of(algorithm, body=Pixels(6).build(1, SIZE))


@pytest.mark.parametrize("t", range(5))
def test_the_label_of_an_image_is_told_one_step_later_and_never_before_it_is_asked(t):
    algorithm = mann()
    net, support = pixels_net(algorithm), one(episodes(shot=2)).support
    other = support.y.clone()
    other[t] = (other[t] + 1) % WAY
    before, after = (algorithm.answers(learner_of(net), support.x, y) for y in (support.y, other))
    assert torch.equal(before[: t + 1], after[: t + 1])
    assert (before[t + 1] - after[t + 1]).abs().max() > 1e-6


def test_what_is_given_is_the_image_with_the_label_before_and_zeros_at_first(monkeypatch):
    algorithm = mann()
    net, support = pixels_net(algorithm), one(episodes(shot=2)).support
    seen = []
    real = MANN._step
    monkeypatch.setattr(
        MANN, "_step", lambda self, learner, given, s: (seen.append(given), real(self, learner, given, s))[1]
    )
    algorithm.answers(learner_of(net), support.x, support.y)
    given = torch.cat(seen)
    assert torch.equal(given[:, :-WAY], net("features", support.x).flatten(1))
    assert torch.equal(given[:, -WAY:], torch.cat([torch.zeros(1, WAY), torch.eye(WAY)[support.y[:-1]]]).double())


def test_the_loss_is_that_of_every_presentation():
    algorithm = mann()
    net, episode = pixels_net(algorithm), one(episodes(shot=4))
    objective = SequenceLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    result = objective(learner_of(net), episode, torch.zeros(()))  # type: ignore[arg-type]
    answers = algorithm.answers(learner_of(net), episode.support.x, episode.support.y)
    assert result.loss == torch.nn.functional.cross_entropy(answers, episode.support.y)
    assert len(result.correct) == 4 * WAY


class Parrot:
    """Knows a class from its second presentation on, and a class's first image is always named 0."""

    way = WAY

    def answers(self, learner, x, y):
        before = (y[:, None] == y).tril(-1).any(1)
        return torch.eye(WAY)[torch.where(before, y, 0)] + 0 * y[:, None]


def test_accuracy_is_counted_by_how_often_a_class_came_before():
    episode = one(episodes(shot=10))
    objective: Any = SequenceLoss(Parrot(), 0, cross_entropy, cross_entropy, predict_transductive)
    result = objective(None, episode, None)
    shown = {k: float(v) for k, v in result.scalars.items() if k != "loss"}
    assert shown == {
        "presentations/1": pytest.approx(1 / WAY),
        "presentations/2": 1.0,
        "presentations/5": 1.0,
        "presentations/10": 1.0,
    }
    fewer = objective(None, one(episodes(shot=4)), None)
    assert set(fewer.scalars) == {"loss", "presentations/1", "presentations/2"}


def test_each_query_is_answered_behind_the_support_as_if_it_were_alone():
    algorithm = mann()
    net, (support, query) = pixels_net(algorithm), one(episodes())
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    together_ = model(query.x)
    for i, x in enumerate(query.x):
        sequence = torch.cat([support.x, x[None]]), torch.cat([support.y, query.y[i : i + 1]])
        assert torch.allclose(algorithm.answers(learner_of(net), *sequence)[-1], together_[i], atol=1e-12)


def drawn(tasks: int, shot: int, generator: torch.Generator) -> Episode:
    """Two classes, each a picture of 4x4 random bits that no other task has, in random order."""
    y = torch.arange(2).repeat(tasks, shot)
    y = y.gather(1, torch.rand(y.shape, generator=generator).argsort(1))
    bits = torch.randint(0, 2, (tasks, 2, 1, 4, 4), generator=generator).float()
    batch = Batch(bits[torch.arange(tasks)[:, None], y], y, bits[:, :0])
    return Episode(batch, batch)


@pytest.mark.slow
def test_it_learns_to_bind_labels_to_pictures_it_has_never_seen():
    """Five ways of real pictures take it tens of thousands of episodes; two of random bits 200 meta-steps."""
    torch.manual_seed(0)
    algorithm = MANN(2, 32, 4, 16, 2, 0.95, 10.0, False)
    net = Net(
        Normalize([0.5], [0.5]), Pixels(4).build(1, 4), torch.nn.Sequential(), algorithm.parts(torch.nn.ReLU(), 16)
    )
    objective = SequenceLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    generator, engine = torch.Generator().manual_seed(1), Vectorized(None)
    one_shot = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    asked = drawn(200, 1, torch.Generator().manual_seed(2))
    assert engine.evaluate(one_shot, net, asked).correct.float().mean() < 0.6
    for _ in range(200):
        optimizer.zero_grad()
        engine.grad(objective, net, drawn(32, 2, generator), torch.zeros(()))
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    assert engine.evaluate(one_shot, net, asked).correct.float().mean() > 0.65


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("objective", [SequenceLoss, QueryLoss])
def test_both_engines_agree(objective, learned):
    algorithm = mann(learned)
    net = pixels_net(algorithm)
    kind = objective(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(kind, net, episodes(shot=4))
    assert far < 1e-10
    assert all(g.isfinite().all() for g in gradient.values())
    assert ("memory.rows" in gradient) == learned
    assert not learned or gradient["memory.rows"].abs().max() > 0


def test_the_memory_starts_as_1e_6_or_as_learned():
    for learned in (False, True):
        net = pixels_net(mann(learned))
        rows = next(mann(learned)._states(learner_of(net), *one(episodes()).support[:2])).rows
        fresh = net.get_parameter("memory.rows") if learned else torch.full((7, 5), 1e-6)
        untouched = (rows[0] - fresh).abs().amax(1) < 1e-12
        assert untouched.sum() >= 7 - 2  # two heads have written


def test_eval_reports_accuracy_by_presentation_beside_the_common_protocol(small, tmp_path, capsys):
    words = ("algo=mann", "algo.slots=8", "algo.controller=8", "algo.reads=2", "task.train_shot=null", "train.steps=1")
    cfg = small(*words, "train.meta_batch=1", "engine=vectorized", "train.val_every=1")
    train.run(cfg, tmp_path / "run")
    cfg.data.absent = ""
    capsys.readouterr()
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert set(record["presentations"]) == {"1", "2", "5", "10"}
    assert all(0 <= share["accuracy"] <= 1 and share["ci95"] >= 0 for share in record["presentations"].values())
    second = record["presentations"]["2"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"2 {100 * second['accuracy']:.2f} ± {100 * second['ci95']:.2f} % of 6 episodes, 5 " in said
    events = EventAccumulator(str(tmp_path / "eval")).Reload()
    assert events.Scalars("test/presentations/2")[0].value == pytest.approx(second["accuracy"])
    assert (record["shot"], record["query"]) == (1, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("algo.reads=9", "algo.slots=8"),
            "algo.slots=8, algo.width=40, algo.reads=9, algo.decay=0.95: expected 1 head",
        ),
        (("algo.decay=2",), "algo.decay=2: expected 1 head or more and a row for each, a width of 1 or more, and a"),
        (("algo.controller=0",), "algo.controller=0: expected a number above 0"),
        (("algo.besides=metalab.nothing.Here",), "algo.besides=metalab.nothing.Here"),
    ],
)
def test_a_value_out_of_range_is_refused(words, message, small, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(small("algo=mann", *words), tmp_path)


def test_a_sequence_takes_an_algorithm_that_reads_one():
    with pytest.raises(UserError, match="takes an algorithm that reads sequences"):
        SequenceLoss(ProtoNet(3), 0, cross_entropy, cross_entropy, predict_transductive)  # type: ignore[arg-type]
