"""A meta-step as one CUDA graph: the thousands of kernels that it launches one by one are launched together."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Engine, Episode, Objective, TaskResult

EAGER = 3  # meta-steps that run as they are: cuDNN chooses its kernels, a chunk that does not fit is halved
logger = logging.getLogger("metalab")


@dataclass
class CUDAGraphEngine:
    """Run an engine's meta-steps on a GPU, all that have the same shapes as one recorded CUDA graph.

    The first steps run as they are, the next is recorded, and each one after copies its episodes to where that one
    had them and replays it. A replay reads the weights where they were, so they have to be changed in place, as
    torch.optim and load_state_dict do. Random numbers come from torch's default generator, which goes on as if
    nothing were recorded. Evaluations run as they are.

    strict: UserError where a meta-step cannot be recorded; else all go on as they are, and the log says so.
    """

    engine: Engine
    strict: bool = True
    _steps: dict[tuple[Any, ...], "Step"] = field(init=False, repr=False, default_factory=dict)

    def grad(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        tensors = [*episodes.support, *episodes.query, progress]
        key = (id(objective), id(net), net.training, *((t.shape, t.dtype) for t in tensors))
        step = self._steps.setdefault(
            key, Step(self.engine, objective, net, self.strict)
        )  # holds both: no id comes twice
        result, gradients = step(tensors)
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return result

    def evaluate(self, objective: Objective, net: nn.Module, episodes: Episode) -> TaskResult:
        return self.engine.evaluate(objective, net, episodes)


@dataclass
class Step:
    """The meta-step of one net and objective on episodes of one shape."""

    engine: Engine
    objective: Objective
    net: nn.Module
    strict: bool
    _taken: int = field(init=False, repr=False, default=0)
    _inputs: list[Tensor] = field(init=False, repr=False)
    _outputs: Any = field(init=False, repr=False)
    _replay: Callable[[], None] | None = field(init=False, repr=False, default=None)
    _refused: bool = field(init=False, repr=False, default=False)

    def __call__(self, tensors: list[Tensor]) -> tuple[TaskResult, list[Tensor | None]]:
        """Return the results and the gradients of the net's parameters; tensors: the episodes' and the progress."""
        if self._taken < EAGER or self._refused:
            self._taken += 1
            return beside(lambda: self._run(tensors), tensors[-1].device)
        if self._replay is None and not self._recorded(tensors):
            return self(tensors)
        for mine, given in zip(self._inputs, tensors, strict=True):
            mine.copy_(given)
        assert self._replay is not None
        self._replay()
        return tree_map_only(Tensor, torch.clone, self._outputs)  # the next replay writes to the same memory

    def _recorded(self, tensors: list[Tensor]) -> bool:
        """Record the step; whether that went well."""
        self._inputs = [t.clone() for t in tensors]
        try:
            self._replay, self._outputs = record(lambda: self._run(self._inputs), tensors[-1].device)
        except UserError as error:
            if self.strict:
                raise
            self._refused = True
            logger.info(f"{error}; it goes on without")
            return False
        logger.info("engine.graphs: a meta-step is recorded as one CUDA graph")
        return True

    def _run(self, tensors: list[Tensor]) -> tuple[TaskResult, list[Tensor | None]]:
        *xy, progress = tensors
        parameters = list(self.net.parameters())
        before = [p.grad for p in parameters]
        try:
            for p in parameters:
                p.grad = None
            result = self.engine.grad(self.objective, self.net, Episode(Batch(*xy[:3]), Batch(*xy[3:])), progress)
            return result, [p.grad for p in parameters]
        finally:
            for p, gradient in zip(parameters, before, strict=True):
                p.grad = gradient


def beside(run: Callable[[], Any], device: torch.device) -> Any:
    """Return what run returns, on a CUDA stream of its own, as torch asks for it before a graph is recorded."""
    stream = side(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        result = run()
    torch.cuda.current_stream(device).wait_stream(stream)
    return result


@cache  # one: each stream has memory of its own
def side(device: torch.device) -> torch.cuda.Stream:
    """Return the device's stream for what comes before a recording."""
    return torch.cuda.Stream(device)


def record(run: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
    """Return what replays the kernels of run, which is called once, and its results, which each replay overwrites."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.empty_cache()  # a graph has memory of its own
    try:  # thread_local: other threads may copy episodes meanwhile
        with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = run()
    except RuntimeError as error:
        raise UserError(
            f"engine.graphs=true: this meta-step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); "
            "type engine.graphs=false, or a smaller engine.chunk where it is the memory"
        ) from error
    return graph.replay, results
