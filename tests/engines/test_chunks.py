"""engine.chunk: chunks make no difference, and what does not fit the memory is halved."""

import logging

import pytest
import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Episode, TaskResult
from metalab.engines import vectorized
from metalab.engines.vectorized import Vectorized
from metalab.tracking import checkpoint
from metalab.training import train
from tests.engines.tasks import (
    ALGORITHMS,
    PROGRESS,
    QUERY,
    TASKS,
    WAY,
    episodes,
    farthest,
    gradient,
    net_of,
    objective,
    of,
)


@pytest.mark.parametrize("case", ALGORITHMS)
def test_chunks_make_no_difference(case):
    for dtype, near in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        algorithm, steps = ALGORITHMS[case]
        net, batch = net_of(algorithm, dtype=dtype), episodes(dtype)
        whole, expected = gradient(Vectorized(None), net, objective(algorithm, steps), batch)
        largest = max(g.abs().max().item() for g in expected.values())
        for chunk in (1, 2, 4, 9):
            result, mine = gradient(Vectorized(chunk), net, objective(algorithm, steps), batch)
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
    expected = gradient(Vectorized(None), net, what, episodes())
    memory, engine = Full(1, error), Vectorized(None)
    monkeypatch.setattr(vectorized, "vmap", memory)
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
    _, expected = gradient(Vectorized(None), net, what, episodes())
    engine, passes = Vectorized(2), []
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
    monkeypatch.setattr(vectorized, "vmap", Full(0, FULL[0]))
    with pytest.raises(UserError, match=r"^one task does not fit the device's memory; try fewer queries \(task\.query"):
        Vectorized(None).grad(what, net, episodes(), PROGRESS)


@pytest.mark.slow
def test_the_chunk_that_was_taken_is_saved_and_taken_again(small, tmp_path, monkeypatch, caplog):
    words = ("algo=maml", "engine=vectorized", "train.meta_batch=5", "algo.test_steps=1", "eval.batch=2")
    with monkeypatch.context() as full:
        full.setattr(vectorized, "vmap", Full(2, FULL[0]))
        train.run(small(*words), tmp_path)
    taken = {"_target_": "metalab.engines.Vectorized", "chunk": 2, "precision": "float32", "graphs": False}
    assert checkpoint.load(tmp_path / "last.pt")["engine"] == taken
    memory = Full(99, FULL[0])
    monkeypatch.setattr(vectorized, "vmap", memory)
    train.run(small(*words, "train.steps=6", f"resume={tmp_path}"), tmp_path)
    assert max(memory.calls) == 2
    assert checkpoint.load(tmp_path / "last.pt")["engine"] == taken


def test_a_validation_that_does_not_fit_leaves_the_training_its_chunk(small, tmp_path, monkeypatch):
    words = ("algo=maml", "engine=vectorized", "train.meta_batch=2", "train.val_episodes=4", "eval.batch=4")
    memory = Full(2, FULL[0])
    monkeypatch.setattr(vectorized, "vmap", memory)
    train.run(small(*words, "algo.test_steps=1"), tmp_path)
    assert max(memory.calls) == 4
    assert checkpoint.load(tmp_path / "last.pt")["engine"]["chunk"] is None


def test_a_chunk_of_none_is_refused():
    with pytest.raises(UserError, match=r"^engine\.chunk=0: expected 1 task or more, or null"):
        Vectorized(0)
