"""The reference engine: one task after another on a clone made by learn2learn's clone_module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from metalab.core.interfaces import Batch, Episode, Learner, Objective, TaskResult
from metalab.core.learn2learn_import import clone_module
from metalab.engines.buffers import learnable, update_buffers
from metalab.engines.precision import Precision, computing


class TaskLearner:
    """One task's clone of the net. graph: build what the outer loop differentiates through.

    tensors: the module's parameters by name, where they are known; to walk through the net takes longer than a step.
    """

    def __init__(self, module: nn.Module, graph: bool, tensors: dict[str, Tensor] | None = None) -> None:
        self.module, self.graph = module, graph
        self._tensors = learnable(module) if tensors is None else tensors

    def __call__(self, x: Tensor) -> Tensor:
        return self.module("logits", x)

    def features(self, x: Tensor) -> Tensor:
        return self.module("features", x)

    def part(self, name: str, *args: Tensor) -> Tensor:
        return self.module(name, *args)

    def parameters(self) -> dict[str, Tensor]:
        return dict(self._tensors)

    def buffers(self) -> dict[str, Tensor]:
        return dict(self.module.named_buffers())

    def grad(
        self, loss: Callable[[Learner], Tensor], names: list[str] | None = None, first_order: bool = False
    ) -> dict[str, Tensor]:
        tensors = self._tensors
        names = list(tensors) if names is None else names
        graph = self.graph or torch.is_grad_enabled()  # the latter: an attack on the support, at evaluation
        # Names of its own for what is differentiated, as the rest of the net may hang on the same tensors (a head made
        # of features); without a history (a zeroed head; everything at evaluation) they are leaves of their own.
        with torch.enable_grad():
            given = {n: tensors[n] for n in names}
            at = {n: t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for n, t in given.items()}
        # What is called inside, gradients too, is differentiated, at evaluation as well: a Hessian times a vector.
        here = self.replace(at)
        here.graph = True
        with torch.enable_grad():
            value = loss(cast(Learner, here))
            grads = torch.autograd.grad(
                value,
                list(at.values()),
                create_graph=graph and not first_order,
                allow_unused=True,
                materialize_grads=True,
            )
        return dict(zip(names, grads, strict=True))

    def replace(self, tensors: dict[str, Tensor]) -> "TaskLearner":
        copies: dict[str, nn.Module] = {"": shallow(self.module)}
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            owner = copied(copies, path)
            kept: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
            kept[leaf] = tensor  # as learn2learn's update_module: a clone's parameters are plain tensors
        own = {name: tensor for name, tensor in tensors.items() if name in self._tensors}  # the others are buffers
        return TaskLearner(copies[""], self.graph, self._tensors | own)


def copied(copies: dict[str, nn.Module], path: str) -> nn.Module:
    """Return the copy of a submodule, made and put into its parent's copy where it is not there yet.

    Not a function inside `replace`: one that calls itself holds itself, and with it every task's weights.
    """
    if path not in copies:
        parent, _, name = path.rpartition(".")
        inside = copied(copies, parent)._modules
        copies[path] = inside[name] = shallow(cast(nn.Module, inside[name]))
    return copies[path]


def shallow(module: nn.Module) -> nn.Module:
    """Return a module of its own with the same tensors and submodules: what is exchanged in it, is in it alone.

    learn2learn's clone_module copies every tensor of the net, at each inner step and for a head's two as well.
    """
    copy = module.__new__(type(module))
    copy.__dict__ = {
        k: v.copy() if k in ("_parameters", "_buffers", "_modules") else v for k, v in vars(module).items()
    }
    return copy


def task(episodes: Episode, t: int) -> Episode:
    """Return episode t of a meta-batch, without the leading T."""
    return Episode(*(Batch(*(tensor[t] for tensor in batch)) for batch in episodes))


def stack(results: list[TaskResult]) -> TaskResult:
    """Join the detached results of T tasks under a leading T."""
    scalars = {k: torch.stack([r.scalars[k].detach() for r in results]) for k in results[0].scalars}
    state = {k: torch.stack([r.state[k].detach() for r in results]) for k in results[0].state}
    loss = torch.stack([r.loss.detach() for r in results])
    return TaskResult(loss, torch.stack([r.correct for r in results]), scalars, state)


def laid_out(learner: TaskLearner) -> TaskLearner:
    """Return the learner with its kernels channels-last where that pays: a CPU's convolutions pick their layout by it.

    Measured at 84x84 (docs/performance.md); under vmap it does not pay, and on a GPU nobody has measured it.
    """
    held = learner.module.named_parameters()  # frozen ones, too
    kernels = {n: p for n, p in held if p.dim() == 4 and p.device.type == "cpu"}
    return learner.replace({n: p.contiguous(memory_format=torch.channels_last) for n, p in kernels.items()})


@dataclass(frozen=True)
class Learn2Learn:
    """Run the tasks of a meta-batch one after another."""

    precision: Precision = "float32"

    def grad(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        tasks = episodes.query.y.shape[0]
        results = []
        with computing(self.precision, episodes.query.x.device):
            learner = laid_out(TaskLearner(clone_module(net), True))  # one for all tasks: they exchange, not write
            for t in range(tasks):
                result = objective(cast(Learner, learner), task(episodes, t), progress)
                (result.loss / tasks).backward()
                results.append(TaskResult(result.loss.detach(), result.correct, result.scalars, result.state))
        joined = stack(results)
        update_buffers(net, joined.state)
        return joined

    def evaluate(self, objective: Objective, net: nn.Module, episodes: Episode) -> TaskResult:
        fixed = laid_out(TaskLearner(net, False).replace({n: p.detach() for n, p in net.named_parameters()}))
        progress = torch.ones((), device=episodes.query.x.device)
        with torch.no_grad(), computing(self.precision, episodes.query.x.device):
            tasks = range(episodes.query.y.shape[0])
            return stack([objective(cast(Learner, fixed), task(episodes, t), progress) for t in tasks])
