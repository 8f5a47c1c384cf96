"""The fast engine: all tasks of a meta-batch at once, by torch.func's vmap over the task dimension."""

import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metalab.algorithms.objectives.variable_way import PerWayObjective
from metalab.attacks.zero_gradients import record, recording
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Learner, Objective, TaskResult
from metalab.engines.buffers import learnable, update_buffers
from metalab.engines.layer_norm import exact_layer_norm
from metalab.engines.precision import Precision, computing

logger = logging.getLogger("metalab")
NO_VMAP = re.compile(r"vmap|functorch|torch\.func|[Bb]atching rule|saved tensor hooks")  # how torch says what it lacks


class FunctionalLearner:
    """One task's net as a function of its tensors; under vmap those that were adapted carry the task dimension."""

    def __init__(
        self, net: nn.Module, parameters: dict[str, Tensor], frozen: dict[str, Tensor], buffers: dict[str, Tensor]
    ) -> None:
        self.net, self._parameters, self._frozen, self._buffers = net, parameters, frozen, buffers

    def __call__(self, x: Tensor) -> Tensor:
        return self.part("logits", x)

    def features(self, x: Tensor) -> Tensor:
        return self.part("features", x)

    def part(self, name: str, *args: Tensor) -> Tensor:
        return functional_call(self.net, (self._parameters, self._frozen, self._buffers), (name, *args))

    def parameters(self) -> dict[str, Tensor]:
        return dict(self._parameters)

    def buffers(self) -> dict[str, Tensor]:
        return dict(self._buffers)

    def grad(
        self, loss: Callable[[Learner], Tensor], names: list[str] | None = None, first_order: bool = False
    ) -> dict[str, Tensor]:
        def value(chosen: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
            with recording() as dead:
                return loss(cast(Learner, self.replace(chosen))), dead

        at = {n: self._parameters[n] for n in (self._parameters if names is None else names)}
        with torch.no_grad() if first_order else nullcontext():  # keeps the outer graph out, not this gradient
            gradient, dead = torch.func.grad(value, has_aux=True)(at)
        for one in dead:  # what attacks noted inside; a tensor that leaves torch.func.grad by another way is broken
            record(one)
        return gradient

    def replace(self, tensors: dict[str, Tensor]) -> "FunctionalLearner":
        parameters = {n: tensors.get(n, t) for n, t in self._parameters.items()}
        buffers = {n: tensors.get(n, t) for n, t in self._buffers.items()}
        return FunctionalLearner(self.net, parameters, self._frozen, buffers)


@dataclass
class Vectorized:
    """Run the tasks of a meta-batch together, at most `chunk` at a time; a chunk that does not fit is halved."""

    chunk: int | None  # null: all tasks at once
    precision: Precision = "float32"
    graphs: bool | None = None  # a meta-step is recorded once as a CUDA graph and replayed; None: where it can be

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise UserError(f"engine.chunk={self.chunk}: expected 1 task or more, or null for all at once")

    def grad(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        parameters = [p for p in net.parameters() if p.requires_grad]

        def work(chunk: Episode) -> TaskResult:
            result = self._run(objective, net, chunk, progress)
            share = result.loss.sum() / tasks
            grads = torch.autograd.grad(share, parameters, allow_unused=True)
            # all sums before the first is stored: out of memory in the middle leaves every .grad as it was
            sums = [
                p.grad if g is None else g if p.grad is None else p.grad + g
                for p, g in zip(parameters, grads, strict=True)
            ]
            for parameter, total in zip(parameters, sums, strict=True):
                parameter.grad = total
            return detached(result)

        tasks = episodes.query.y.shape[0]
        with computing(self.precision, episodes.query.x.device):
            result = self._chunked(work, episodes)
        update_buffers(net, result.state)
        return result

    def evaluate(self, objective: Objective, net: nn.Module, episodes: Episode) -> TaskResult:
        progress = torch.ones((), device=episodes.query.x.device)
        with torch.no_grad(), computing(self.precision, episodes.query.x.device):
            return self._chunked(lambda chunk: self._run(objective, net, chunk, progress), episodes)

    def _run(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        learned = learnable(net)
        frozen: dict[str, Tensor] = {n: p for n, p in net.named_parameters() if n not in learned}
        learner = FunctionalLearner(net, learned, frozen, dict(net.named_buffers()))
        whole = objective.of(episodes) if isinstance(objective, PerWayObjective) else objective
        one = partial(whole, cast(Learner, learner))
        try:
            with exact_layer_norm(net):
                return vmap(one, in_dims=(0, None), randomness="different")(episodes, progress)
        except RuntimeError as error:
            if not NO_VMAP.search(str(error)):
                raise
            raise UserError(
                f"this net cannot run for several tasks at once: {str(error).splitlines()[0]} Type engine=learn2learn"
            ) from error

    def _chunked(self, work: Callable[[Episode], TaskResult], episodes: Episode) -> TaskResult:
        """Join the results of `work` on chunks of the meta-batch, halving the chunk where the memory is too small."""
        tasks, results, done = episodes.query.y.shape[0], [], 0
        while done < tasks:
            size = min(self.chunk or tasks, tasks)
            try:
                results.append(work(Episode(*(Batch(*(t[done : done + size] for t in batch)) for batch in episodes))))
                done += size
                continue
            except RuntimeError as error:
                if not out_of_memory(error) or capturing(episodes.query.x.device):
                    raise  # nothing may be given back to the device while a graph is recorded
                if size == 1:
                    raise UserError(
                        "one task does not fit the device's memory; try fewer queries (task.query), fewer inner steps "
                        "(algo.steps), a smaller backbone or engine=learn2learn"
                    ) from None
            self.chunk = size // 2
            logger.info(f"{size} tasks at once do not fit the device's memory: engine.chunk={self.chunk} from here on")
            torch.cuda.empty_cache()
        return joined(results)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the memory of a GPU, or of the host, was too small; the host's has no exception of its own."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def detached(result: TaskResult) -> TaskResult:
    """Return the result without its graph."""
    scalars, state = ({k: v.detach() for k, v in d.items()} for d in (result.scalars, result.state))
    return TaskResult(result.loss.detach(), result.correct, scalars, state)


def joined(results: list[TaskResult]) -> TaskResult:
    """Join results, each with a leading T, into one."""
    scalars, state = (
        {k: torch.cat([d[k] for d in dicts]) for k in dicts[0]}
        for dicts in ([r.scalars for r in results], [r.state for r in results])
    )
    return TaskResult(torch.cat([r.loss for r in results]), torch.cat([r.correct for r in results]), scalars, state)
