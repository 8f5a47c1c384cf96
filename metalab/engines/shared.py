"""A meta-step whose tasks are shared among the processes of a training: each runs its own, one message adds them up."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from metalab.core.interfaces import Engine, Episode, Objective, TaskResult
from metalab.distributed.processes import several, share
from metalab.engines.buffers import update_buffers
from metalab.engines.shared_draws import SharedDraws


@dataclass
class SharedEngine:
    """Run this process's tasks of each meta-batch on an engine, and return the results of all of them.

    After it every process has the same gradients, buffers and results: those that the engine alone would have come to,
    but for the order in which the tasks' gradients are added. Gradients and results go in one all_reduce.
    """

    engine: Engine
    tasks: int  # a meta-batch, of all processes
    _share: slice = field(init=False, repr=False)
    _draws: SharedDraws = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._share = share(self.tasks)
        self._draws = SharedDraws(self.engine, self._share, self.tasks)

    def grad(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        """Add the gradient of the mean loss over all T tasks to .grad; episodes: those of this process.

        Returns:
            The results of all T tasks, with a leading T, detached.
        """
        from metalab.distributed import group  # it loads torch.distributed

        learned = [p for p in net.parameters() if p.requires_grad]
        before = [p.grad for p in learned]
        for p in learned:
            p.grad = None
        mine = self._draws.grad(objective, net, episodes, progress)
        weight = (self._share.stop - self._share.start) / self.tasks  # the engine's is the mean over its own tasks
        own = [None if p.grad is None else p.grad * weight for p in learned]
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(learned, own, strict=True)]
        rows = [self._placed(t) for t in (mine.loss, mine.correct, *mine.scalars.values(), *mine.state.values())]
        uses = group.anywhere([g is not None for g in own])  # by the processors: no GPU is waited for
        summed = added([*gradients, *rows])
        for p, old, used, new in zip(learned, before, uses, summed, strict=False):
            p.grad = old if not used else new if old is None else old + new
        loss, correct, *rest = summed[len(learned) :]
        scalars = dict(zip(mine.scalars, rest, strict=False))
        state = dict(zip(mine.state, rest[len(scalars) :], strict=True))
        update_buffers(net, state)
        return TaskResult(loss, correct.bool(), scalars, state)

    def evaluate(self, objective: Objective, net: nn.Module, episodes: Episode) -> TaskResult:
        return self.engine.evaluate(objective, net, episodes)

    def _placed(self, rows: Tensor) -> Tensor:
        """Return rows [n,...] of this process's tasks among zeros [T,...]: the sum over the processes has all rows."""
        whole = rows.new_zeros((self.tasks, *rows.shape[1:]), dtype=torch.float32 if rows.dtype == torch.bool else None)
        whole[self._share] = rows
        return whole


def shared(engine: Engine, tasks: int) -> Engine:
    """Return the engine, or, where a training has several processes, what shares its tasks among them."""
    return SharedEngine(engine, tasks) if several() else engine


def added(tensors: list[Tensor]) -> list[Tensor]:
    """Return the sum of each tensor over all processes, by one message in the widest of their types."""
    from metalab.distributed import group  # it loads torch.distributed

    widest = tensors[0].dtype
    for t in tensors:
        widest = torch.promote_types(widest, t.dtype)
    flat = torch.cat([t.detach().reshape(-1).to(widest) for t in tensors])
    group.add(flat)
    parts = flat.split([t.numel() for t in tensors])
    return [part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]
