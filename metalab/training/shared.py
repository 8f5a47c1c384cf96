"""A training in several processes: what of it they share, and what they cannot do together."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from metalab.config.experiment import ExperimentConfig
from metalab.core.errors import UserError
from metalab.core.interfaces import Engine, Objective
from metalab.data.sampling.build import Source, steps_of
from metalab.distributed.processes import processes, several
from metalab.engines.shared_draws import generator_state, set_generator_state
from metalab.evaluation.measure import measure, outcome, outcomes
from metalab.models.layers import estimate_running
from metalab.tracking.training_state import State
from metalab.training.setup import TrainingSetup


def refuse_several(config: ExperimentConfig) -> None:
    """Raise UserError for what is several trainings, where these would have several processes each."""
    train, one = config.train, "run it in one process, without torchrun"
    asked = {
        "train.phases": (train.phases is not None, "or each phase by itself, with train.init=RUN for those behind"),
        "train.generations": (train.generations > 1, "or each by itself, with reg.distill.teacher=RUN"),
        "eval.folds": (config.eval.folds is not None, "or one training without it"),
    }
    for key, (there, other) in asked.items():
        if several() and there:
            raise UserError(
                f"{key} trains several nets, one after another, which several processes do not share: {one}, {other}"
            )


def refuse_idle(r: TrainingSetup) -> None:
    """Raise UserError where a meta-step has fewer tasks than there are processes."""
    count = processes().count
    if r.meta_batch >= count:
        return
    what = "episode" if r.algo.mini_batch is None else "mini-batch"
    many = f"{r.meta_batch} {what if r.meta_batch == 1 else {'episode': 'episodes'}.get(what, 'mini-batches')}"
    begin = f"a meta-step has {many}, and {count} processes share them: type "
    if r.algo.mini_batch is None and not r.task.fixed:
        raise UserError(f"{begin}task=fixed, as others have one episode a meta-step, or run it without torchrun")
    fewer = f"torchrun --nproc-per-node={r.meta_batch}" if r.meta_batch > 1 else "leave out torchrun"
    more = "" if r.algo.mini_batch is None else f", {count} of algo.mini_batch={r.algo.mini_batch} images each"
    raise UserError(f"{begin}train.meta_batch={count}{more}, or {fewer}")


def begin_alike(net: nn.Module) -> None:
    """Give the net in every process rank 0's weights: processors of several kinds may draw others."""
    if several():
        from metalab.distributed import group  # it loads torch.distributed

        group.begin_alike(net)


def draw_alike(device: torch.device) -> None:
    """Set the generators of every process to where rank 0's stand: a checkpoint has those of its own devices."""
    if several():
        from metalab.distributed import group  # it loads torch.distributed

        set_generator_state(group.from_main(generator_state(device)), device)


def save_nothing(name: str, state: State) -> None:
    """Write no checkpoint, as rank 0 does."""


def estimate_running_shared(net: nn.Module, passes: list[Callable[[], object]]) -> None:
    """Do what estimate_running does; of several processes each makes some of the passes."""
    if not several():
        return estimate_running(net, passes)
    from metalab.distributed import group  # it loads torch.distributed

    estimate_running(net, group.turn(passes), group.gathered)


@dataclass
class Validation:
    """Measure a net on the first so many episodes of a source; several processes share them.

    They do not where measuring draws random numbers, as for a head that begins at random: then each process measures
    all episodes, and draws what one alone would.
    """

    engine: Engine
    objective: Objective
    net: nn.Module
    source: Source
    bn: str
    _draws: bool | None = field(init=False, repr=False, default=None)  # None: nobody has looked

    def __call__(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the accuracy and the loss of each episode, float64 [count], in every process."""
        if several() and self._draws is False:
            return self._shared(count)
        device = next(self.net.parameters()).device
        before = generator_state(device) if several() else None
        found = measure(outcomes(self.engine, self.objective, self.net, self.source, count, self.bn), count)
        if before is not None:
            self._draws = not torch.equal(before, generator_state(device))
        return found

    def _shared(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Do what a call does; each process takes some of the meta-batches."""
        from metalab.distributed import group  # it loads torch.distributed

        steps = group.turn(list(range(steps_of(self.source, count))))
        results = (outcome(self.engine, self.objective, self.net, self.source(step), self.bn) for step in steps)
        accuracies, losses = zip(*group.gathered([measure([result], count) for result in results]), strict=True)
        return np.concatenate(accuracies)[:count], np.concatenate(losses)[:count]
