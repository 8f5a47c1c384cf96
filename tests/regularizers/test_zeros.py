"""The share of zero gradients that a training attack met: in what a meta-step shows, and in what a run logs."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from metalab.attacks.zero_gradients import record, recording
from metalab.core.interfaces import Batch, Engine, Episode
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.regularizers import Regularizer
from metalab.regularizers.weight_penalties import L2, GradientNorm
from metalab.training import train
from tests.attacks.nets import CASES, PROGRESS, TASKS, episodes, net_of
from tests.quick import among, quick
from tests.regularizers.made import fgsm, objective, pgd

PARTS: dict[str, tuple[list[Regularizer], int, int]] = {  # and how much of the images are supports and queries
    "query": ([fgsm()], 0, 1),
    "random_start": ([fgsm(random_start=True)], 0, 1),
    "add": ([pgd(how="add")], 0, 1),
    "trades": ([pgd(how="trades", random_start=True)], 0, 1),
    "support": ([fgsm("support")], 1, 0),
    "both": ([pgd("both")], 1, 1),
    "both_add": ([fgsm("both", how="add")], 1, 1),
    "crossed": ([fgsm("crossed")], 1, 1),
    "inner": ([fgsm("support", "inner")], 1, 0),
    "inner_several": ([GradientNorm(0.01), fgsm("support", "inner"), L2(0.1, 0.1)], 1, 0),
}


class Blind(nn.Module):
    """A first layer that sees nothing of an image whose corner is bright: the image's gradient is exactly 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1, :1, :1] > 0.5, 0.25, x)


def marked() -> Episode:
    """Episodes whose t-th task has t blind images in its support and t + 1 among its queries."""
    support, query = episodes()

    def corners(batch: Batch, more: int) -> Batch:
        x = batch.x.clone()
        for t in range(TASKS):
            x[t, :, :, 0, 0] = (torch.arange(x.shape[1]) < t + more).to(x.dtype)[:, None]
        return batch._replace(x=x)

    return Episode(corners(support, 0), corners(query, 1))


def shown(engine: Engine, case: str, regularizers: list[Regularizer]) -> dict[str, Tensor]:
    net = net_of(CASES[case][0])
    net.normalize = Blind()
    return engine.grad(objective(case, regularizers), net, marked(), PROGRESS).scalars


LEARNS = {  # a metric method has no inner steps, and reptile learns nothing from queries
    "maml": list(PARTS),
    "imaml": list(PARTS),
    "reptile": [name for name in PARTS if name.startswith(("inner", "support"))],
    "protonet": [name for name in PARTS if not name.startswith("inner")],
}


EVERY = [(case, name) for case, names in LEARNS.items() for name in names]


@pytest.mark.parametrize(("case", "name"), quick(EVERY, among("protonet")))
def test_every_training_attack_shows_the_share_and_both_engines_the_same(case, name):
    part, supports, queries = PARTS[name]
    queries *= 2 if case == "imaml" else 1  # it attacks them for what is shown, and again for its gradient
    support = torch.arange(TASKS, dtype=torch.float64) / 6
    expected = (supports * support + queries * (support + 1 / 6)) / (supports + queries)
    for engine in (Learn2Learn(), Vectorized(2)):
        torch.testing.assert_close(shown(engine, case, part)["zero_gradients"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None)], ids=["loop", "vmap"])
def test_without_an_attack_there_is_no_such_number(engine):
    assert set(shown(engine, "maml", [])) == {"loss"}
    assert set(shown(engine, "maml", [L2(0.1, 0.1)])) == {"loss"}
    assert set(shown(engine, "protonet", [fgsm("support", "inner")])) == {"loss"}  # it has no inner step to attack


def test_each_task_has_a_list_of_its_own_and_an_error_closes_it():
    dead = torch.ones(2).bool()

    def failing() -> None:
        with recording():
            record(dead)
            raise ValueError("of the loss")

    record(dead)  # nobody asked
    with recording() as outside:
        shown(Vectorized(None), "protonet", [fgsm()])
        assert outside == []
        with pytest.raises(ValueError, match="of the loss"):
            failing()
        record(dead)
    assert len(outside) == 1


def logged(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(("train/zero_gradients" in line) == ("train/loss" in line) for line in lines)
    return [line["train/zero_gradients"] for line in lines if "train/loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["reg=adv_fgsm"], ["reg=adv_pgd", "reg.adv_pgd.on=crossed", "reg.adv_pgd.steps=2"]])
def test_a_run_logs_it(words, small, tmp_path):
    words = [*words, "algo=maml", "algo.steps=1", "algo.test_steps=1", "train.meta_batch=2"]
    for engine in ("learn2learn", "vectorized"):
        out = tmp_path / engine
        train.run(small(*words, f"engine={engine}"), out)
        assert all(0 <= value < 0.1 for value in logged(out))
        events = EventAccumulator(str(out)).Reload().Scalars("train/zero_gradients")
        assert [e.value for e in events] == pytest.approx(logged(out))
        assert [e.step for e in events] == [2, 4]


def test_a_run_whose_attack_is_blind_says_so(small, tmp_path):
    """Where nearly all features are dropped the logits hang on no pixel."""
    train.run(small("reg=[adv_fgsm,dropout]", "reg.dropout.p=0.99999"), tmp_path)
    assert min(logged(tmp_path)) > 0.9


def test_attacked_inner_steps_are_logged_too(small, tmp_path):
    inner = ("reg=adv_fgsm", "reg.adv_fgsm.on=support", "reg.adv_fgsm.where=inner")
    train.run(small("algo=maml", "algo.steps=2", "algo.test_steps=1", "train.meta_batch=2", *inner), tmp_path)
    assert all(0 <= value <= 1 for value in logged(tmp_path))
