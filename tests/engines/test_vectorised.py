"""What is the vectorised engine's own: right second-order gradients, chunks, randomness, evaluation that only looks."""

import logging
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab import checkpoint, train
from metalab.algorithms.maml import MAML
from metalab.algorithms.protonet import ProtoNet
from metalab.algorithms.reptile import Reptile
from metalab.engines import vectorised
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorised import Vectorised
from metalab.errors import UserError
from metalab.interfaces import Algorithm, Batch, Engine, Episode, TaskResult
from metalab.models.backbones import Conv4, DropBlock
from metalab.models.layers import BatchStatNorm, Normalise, running_statistics
from metalab.models.net import Net
from metalab.objectives.judge import PREDICTIONS, cross_entropy
from metalab.objectives.query import QueryLoss

WAY, SHOT, QUERY, TASKS, SIZE = 3, 2, 2, 5, 16
PROGRESS = torch.zeros(())
ALGORITHMS = {"maml": (MAML(WAY, 0.1, False, "learned"), 2), "protonet": (ProtoNet(WAY), 0)}


def episodes(dtype: torch.dtype = torch.float64) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        x = torch.rand(TASKS, WAY * each, 1, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
        return Batch(x, torch.arange(WAY).repeat(TASKS, each), x[:, :0])

    return Episode(batch(SHOT), batch(QUERY))


def net_of(algorithm: Algorithm, drop: nn.Module | None = None, dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(0)
    body = Conv4(4, 4, False, False).build(1, SIZE)
    net = Net(Normalise([0.0], [1.0]), body, drop or nn.Sequential(), algorithm.parts(body, 4)).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(0.05 * torch.randn_like(p))
    return net.to(dtype)


def objective(algorithm: Algorithm, steps: int, bn: str = "batch") -> QueryLoss:
    return QueryLoss(algorithm, steps, cross_entropy, cross_entropy, PREDICTIONS[bn])


def gradient(engine: Engine, net: Net, what, batch: Episode) -> tuple[TaskResult, dict[str, Tensor]]:
    net.zero_grad()
    result = engine.grad(what, net, batch, PROGRESS)
    return result, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def farthest(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert set(mine) == set(theirs)
    return max((mine[n] - theirs[n]).abs().max().item() for n in theirs)


def of(case: str) -> tuple[Net, QueryLoss]:
    algorithm, steps = ALGORITHMS[case]
    return net_of(algorithm), objective(algorithm, steps)


def test_mamls_meta_gradient_is_that_of_finite_differences():
    net, what = of("maml")
    _, analytic = gradient(Vectorised(None), net, what, episodes())
    direction = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    theta = {n: p.detach().clone() for n, p in net.named_parameters()}

    def at(step: float) -> float:
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.copy_(theta[n] + step * direction[n])
        return gradient(Vectorised(None), net, what, episodes())[0].loss.mean().item()

    h = 1e-7  # within one piece of the ReLUs and max-poolings
    slope = (at(h) - at(-h)) / (2 * h)
    at(0)
    _, first = gradient(Vectorised(None), net, objective(MAML(WAY, 0.1, True, "learned"), 2), episodes())
    along = [sum((g[n] * direction[n]).sum().item() for n in g) for g in (analytic, first)]
    assert slope == pytest.approx(along[0], rel=1e-6)
    assert slope != pytest.approx(along[1], rel=1e-2)  # what the first order alone would give


def test_torchs_own_batch_norm_would_be_noticed(monkeypatch):
    """Same losses, other second-order gradients: should this fail, torch is mended and the norm can be its own."""
    net, what = of("maml")
    loop, expected = gradient(Learn2Learn(), net, what, episodes())
    theirs = lambda self, x: F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)  # noqa: E731
    monkeypatch.setattr(BatchStatNorm, "forward", theirs)
    result, wrong = gradient(Vectorised(None), net, what, episodes())
    assert (result.loss - loop.loss).abs().max() < 1e-10
    assert farthest(wrong, expected) > 1e-4


def test_one_tasks_support_in_the_place_of_anothers_would_be_noticed():
    net, what = of("maml")
    batch = episodes()
    loop, expected = gradient(Learn2Learn(), net, what, batch)
    order = torch.tensor([1, 0, 2, 3, 4])
    swapped = batch._replace(support=Batch(*(t[order] for t in batch.support)))
    result, wrong = gradient(Vectorised(None), net, what, swapped)
    assert (result.loss - loop.loss).abs().max() > 1e-6
    assert farthest(wrong, expected) > 1e-6


@pytest.mark.parametrize("case", ALGORITHMS)
def test_chunks_make_no_difference(case):
    for dtype, near in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        algorithm, steps = ALGORITHMS[case]
        net, batch = net_of(algorithm, dtype=dtype), episodes(dtype)
        whole, expected = gradient(Vectorised(None), net, objective(algorithm, steps), batch)
        largest = max(g.abs().max().item() for g in expected.values())
        for chunk in (1, 2, 4, 9):
            result, mine = gradient(Vectorised(chunk), net, objective(algorithm, steps), batch)
            assert farthest(mine, expected) < near * min(1, largest)
            assert (result.loss - whole.loss).abs().max() < near
            assert result.correct.shape == (TASKS, WAY * QUERY)


class Full:
    """vmap on a device that has memory for so many tasks."""

    def __init__(self, tasks: int, error: RuntimeError) -> None:
        self.tasks, self.calls, self.error = tasks, [], error

    def __call__(self, function, in_dims, randomness):
        def run(batch: Episode, progress: Tensor) -> TaskResult:
            self.calls.append(len(batch.query.y))
            if self.calls[-1] > self.tasks:
                raise self.error
            return torch.func.vmap(function, in_dims=in_dims, randomness=randomness)(batch, progress)

        return run


FULL = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", FULL, ids=["cuda", "cpu"])
def test_a_chunk_that_does_not_fit_is_halved_and_said(error, monkeypatch, caplog):
    net, what = of("maml")
    expected = gradient(Vectorised(None), net, what, episodes())
    memory, engine = Full(1, error), Vectorised(None)
    monkeypatch.setattr(vectorised, "vmap", memory)
    caplog.set_level(logging.INFO, "metalab")
    result, mine = gradient(engine, net, what, episodes())
    assert memory.calls == [5, 2, 1, 1, 1, 1, 1]
    assert caplog.messages == [
        "5 tasks at once do not fit the device's memory: engine.chunk=2 from here on",
        "2 tasks at once do not fit the device's memory: engine.chunk=1 from here on",
    ]
    assert engine.chunk == 1
    assert farthest(mine, expected[1]) < 1e-12
    assert (result.loss - expected[0].loss).abs().max() < 1e-12
    assert (engine.evaluate(what, net, episodes()).loss - expected[0].loss).abs().max() < 1e-12


@pytest.mark.parametrize("at", ["first", "last"])  # which parameter's gradient does not fit any more
def test_out_of_memory_in_the_backward_pass_keeps_earlier_chunks_and_drops_its_own(at):
    net, what = of("maml")
    _, expected = gradient(Vectorised(None), net, what, episodes())
    engine, passes = Vectorised(2), []
    watched = next(iter(net.parameters())) if at == "first" else list(net.parameters())[-1]

    def full(g: Tensor) -> None:
        passes.append(1)
        if len(passes) == 2:  # in the second chunk
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    handle = watched.register_hook(full)
    net.zero_grad()
    for p in net.parameters():
        p.grad = torch.ones_like(p)  # what stood there before stays, too
    engine.grad(what, net, episodes(), PROGRESS)
    handle.remove()
    assert (engine.chunk, len(passes)) == (1, 5)  # 2 tasks, 2 that failed, then 1, 1, 1
    found = {n: p.grad - 1 for n, p in net.named_parameters() if p.grad is not None}
    assert farthest(found, expected) < 1e-12


def test_one_task_that_does_not_fit_is_an_error_with_advice(monkeypatch):
    net, what = of("protonet")
    monkeypatch.setattr(vectorised, "vmap", Full(0, FULL[0]))
    with pytest.raises(UserError, match=r"^one task does not fit the device's memory; try fewer queries \(task\.query"):
        Vectorised(None).grad(what, net, episodes(), PROGRESS)


def test_the_chunk_that_was_taken_is_saved_and_taken_again(small, tmp_path, monkeypatch, caplog):
    words = ("algo=maml", "engine=vectorised", "train.meta_batch=5", "algo.test_steps=1", "eval.batch=2")
    with monkeypatch.context() as full:
        full.setattr(vectorised, "vmap", Full(2, FULL[0]))
        train.run(small(*words), tmp_path)
    taken = {"_target_": "metalab.engines.vectorised.Vectorised", "chunk": 2, "precision": "float32"}
    assert checkpoint.load(tmp_path / "last.pt")["engine"] == taken
    memory = Full(99, FULL[0])
    monkeypatch.setattr(vectorised, "vmap", memory)
    train.run(small(*words, "train.steps=6", f"resume={tmp_path}"), tmp_path)
    assert max(memory.calls) == 2
    assert checkpoint.load(tmp_path / "last.pt")["engine"] == taken


def test_a_validation_that_does_not_fit_leaves_the_training_its_chunk(small, tmp_path, monkeypatch):
    words = ("algo=maml", "engine=vectorised", "train.meta_batch=2", "train.val_episodes=4", "eval.batch=4")
    memory = Full(2, FULL[0])
    monkeypatch.setattr(vectorised, "vmap", memory)
    train.run(small(*words, "algo.test_steps=1"), tmp_path)
    assert max(memory.calls) == 4
    assert checkpoint.load(tmp_path / "last.pt")["engine"]["chunk"] is None


@pytest.mark.parametrize("drop", [nn.Dropout(0.5), DropBlock(0.5, 1)], ids=["dropout", "dropblock"])
def test_every_task_drops_something_of_its_own(drop):
    algorithm = ProtoNet(WAY)
    net = net_of(algorithm, drop)
    one = Episode(*(Batch(*(t[:1].expand(TASKS, *t.shape[1:]) for t in b)) for b in episodes()))
    loss = Vectorised(None).grad(objective(algorithm, 0), net.train(), one, PROGRESS).loss
    assert len(loss.unique()) == TASKS
    plain = Vectorised(None).evaluate(objective(algorithm, 0), net.eval(), one).loss
    assert (plain - plain[0]).abs().max() < 1e-12


def test_evaluation_leaves_the_net_alone_and_builds_no_graph():
    for algorithm, steps in (*ALGORITHMS.values(), (Reptile(WAY, 1e-3, 0.9, 5), 3)):
        net = net_of(algorithm)
        before = {n: t.clone() for n, t in net.state_dict().items()}
        result = Vectorised(2).evaluate(objective(algorithm, steps), net, episodes())
        assert not result.loss.requires_grad
        assert result.correct.shape == (TASKS, WAY * QUERY)
        assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("bn", PREDICTIONS)
@pytest.mark.parametrize("case", ALGORITHMS)
def test_every_batch_norm_mode_is_the_loops(case, bn):
    algorithm, steps = ALGORITHMS[case]
    net, what = net_of(algorithm), objective(algorithm, steps, bn)
    for m in net.modules():
        if isinstance(m, BatchStatNorm):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    with running_statistics() if bn == "running" else nullcontext():
        fast, slow = (engine.evaluate(what, net, episodes()) for engine in (Vectorised(2), Learn2Learn()))
    assert (fast.loss - slow.loss).abs().max() < 1e-10
    assert torch.equal(fast.correct, slow.correct)
    other = Learn2Learn().evaluate(objective(algorithm, steps, "batch"), net, episodes())
    assert bn == "batch" or (other.loss - fast.loss).abs().max() > 1e-6


def test_a_chunk_of_none_is_refused():
    with pytest.raises(UserError, match=r"^engine\.chunk=0: expected 1 task or more, or null"):
        Vectorised(0)
