"""Random numbers of a shared meta-batch: each process draws for its tasks what one process would have drawn.

Dropout, random starts, mixtures and the like draw from torch's default generator while tasks run. In every process it
stands where it would stand in one alone: it is moved past the numbers of the tasks that others run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from metalab.core.errors import UserError
from metalab.core.interfaces import Engine, Episode, Objective, TaskResult
from metalab.engines.cuda_graph import CUDAGraphEngine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized

Call = Callable[[], object]  # draws again what was drawn once, in the same shape


class Recorder(TorchDispatchMode):
    """Note each operation that draws random numbers, as what draws as many again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if draws(func) and kwargs.get("generator") is None:
            again = tree_map_only(Tensor, torch.zeros_like, args)
            self.calls.append(lambda: func(*again, **kwargs))
        return func(*args, **kwargs)


class WholeBatch(TorchDispatchMode):
    """Draw for all tasks of a meta-batch at once, and keep the rows of some: what vmap draws has the tasks in front."""

    def __init__(self, share: slice, tasks: int) -> None:
        super().__init__()
        self.share, self.tasks = share, tasks

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not draws(func):
            return func(*args, **kwargs)
        first, *rest = args
        mine = self.share.stop - self.share.start
        rows = first.shape[0] if isinstance(first, Tensor) else first[0] if isinstance(first, (list, tuple)) else None
        if isinstance(rows, int) and rows < mine:
            raise UserError(
                f"the memory is too small for {mine} tasks at once, and fewer cannot share their random numbers: start "
                "more processes, or type a smaller train.meta_batch or engine=learn2learn"
            )
        if rows != mine:
            raise UserError(f"{func} draws random numbers, and not for each task: type engine=learn2learn")
        if not isinstance(first, Tensor):  # a shape
            return func([self.tasks, *first[1:]], *rest, **kwargs)[self.share]
        whole = first.new_zeros((self.tasks, *first.shape[1:]))
        whole[self.share] = first
        drawn = tree_map_only(Tensor, lambda t: t[self.share], func(whole, *rest, **kwargs))
        return first.copy_(drawn) if func._schema.name.endswith("_") else drawn


@dataclass
class SharedDraws:
    """Run some of a meta-batch's tasks on an engine, with the random numbers that these have among all of them."""

    engine: Engine
    share: slice
    tasks: int  # of the whole meta-batch
    _one: list[Call] | None = field(init=False, repr=False, default=None)  # what a task draws; None: not looked at yet

    def grad(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        """Do what engine.grad does; every parameter's .grad has to be None, and is anew where this raises."""
        if self._one is None:
            self._one = self._looked_at(objective, net, episodes, progress)
        if not self._one:
            return self.engine.grad(objective, net, episodes, progress)
        if isinstance(self._inner, Learn2Learn):
            self._skip(self.share.start)
            result = self.engine.grad(objective, net, episodes, progress)
            self._skip(self.tasks - self.share.stop)
            return result
        chunk = vars(self._inner)["chunk"]
        if chunk is not None and chunk < self.tasks:
            raise UserError(
                f"engine.chunk={chunk}: this training draws random numbers while its tasks run, which several "
                "processes share where each runs all of its tasks at once: type engine.chunk=null, or "
                "engine=learn2learn"
            )
        with WholeBatch(self.share, self.tasks):
            return self.engine.grad(objective, net, episodes, progress)

    @property
    def _inner(self) -> Engine:
        return self.engine.engine if isinstance(self.engine, CUDAGraphEngine) else self.engine

    def _looked_at(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> list[Call]:
        """Return what the first task draws, by a meta-step of it alone, of which nothing else is kept."""
        before = generator_state(progress.device)
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        with Recorder() as recorder:
            self._inner.grad(objective, net, first_of(episodes), progress)
        if recorder.calls and not isinstance(self._inner, Learn2Learn | Vectorized):
            raise UserError(
                f"{type(self._inner).__name__} is an engine of your own, and this training draws random numbers while "
                "its tasks run, which several processes cannot share on it: type engine=learn2learn"
            )
        after = generator_state(progress.device)
        set_generator_state(before, progress.device)
        for call in recorder.calls:
            call()
        if not generator_state(progress.device).equal(after):
            raise UserError(
                "this training draws random numbers that are drawn again in its backward pass, which several processes "
                "cannot share: type backbone.checkpointing=false where the backbone has it, or leave dropout out"
            )
        set_generator_state(before, progress.device)
        for p in net.parameters():
            p.grad = None
        for name, value in buffers.items():
            net.get_buffer(name).copy_(value)
        return recorder.calls

    def _skip(self, tasks: int) -> None:
        """Draw what so many tasks draw."""
        for _ in range(tasks):
            for call in self._one or ():
                call()


def draws(operation: Any) -> bool:
    """Whether a torch operation takes numbers from a generator."""
    return torch.Tag.nondeterministic_seeded in operation.tags


def first_of(episodes: Episode) -> Episode:
    """Return a meta-batch's first episode, as a meta-batch."""
    return Episode(*(type(batch)(*(t[:1] for t in batch)) for batch in episodes))


def generator_state(device: torch.device) -> Tensor:
    """Return where the generators of the processor and of a device stand; no device is waited for."""
    states = [torch.get_rng_state()]
    return torch.cat([*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states)


def set_generator_state(state: Tensor, device: torch.device) -> None:
    """Set the generators of the processor and of a device to where they stood."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:], device)
