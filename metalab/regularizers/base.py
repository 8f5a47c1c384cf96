"""What a regularizer changes, and how several are put together.

A regularizer's hooks() says what it changes; what it does not name stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from metalab.core.interfaces import Algorithm, AttackedImages, Episode, Learner, Loss, Objective, TaskResult
from metalab.data.sampling.augment import Augment

IMAGES, ATTACKS = 1, 2  # ranks of what changes images, and of what attacks them
ObjectiveFactory = Callable[[Loss], Objective]  # the loss on the query -> the objective with that loss


class ObjectiveContext(NamedTuple):
    """What an objective is made of, for a regularizer that works on whole episodes."""

    algorithm: Algorithm
    steps: int
    inner: Loss


def identity_loss(loss: Loss) -> Loss:
    """Return the loss as it is."""
    return loss


def identity_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
    """Return what makes the objective as it is."""
    return make


def no_penalty(learner: Learner) -> Tensor | None:
    """Add no penalty."""
    return None


class Hooks(NamedTuple):
    """What a regularizer changes."""

    inner: Callable[[Loss], Loss] = identity_loss  # the loss of the inner steps, in training and at test
    outer: Callable[[Loss], Loss] = identity_loss  # the loss on the query, in training
    wrap_objective: Callable[[ObjectiveFactory, ObjectiveContext], ObjectiveFactory] = (
        identity_objective  # the objective of a whole episode, in training
    )
    penalty: Callable[[Learner], Tensor | None] = no_penalty  # added to the outer loss, a function of the start theta
    drop: nn.Module | None = None  # behind the body, in training only
    augment: Augment | None = None  # what the sampler does to the images, in training
    query: bool = False  # it does nothing where the loss on the query is not differentiated
    support: bool = False  # it does nothing where there is no support
    images: AttackedImages | None = (
        None  # it changes these images alone, and does nothing where none of them is learned from
    )
    smoothed: bool = False  # it changes the targets of a cross-entropy, and beside another loss has no least value
    first: bool = False  # it climbs the loss of the model before the first inner step
    inner_off: str = "inner=0"  # the setting that leaves the inner steps as they are
    inner_attack: str = ""  # the part that attacks the support in inner steps, "reg.adv_pgd"
    random_inner: str = (
        ""  # the setting by which two looks at one inner problem differ, "reg.adv_pgd.random_start=true"
    )
    rank: int = 0  # the higher, the further outside of the others it stands: 0, IMAGES or ATTACKS


class Regularizer(Protocol):
    def hooks(self) -> Hooks: ...


@dataclass(frozen=True)
class Penalized:
    """An objective with the regularizers' penalty on its loss."""

    objective: Objective
    penalty: Callable[[Learner], Tensor | None]

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        result, value = self.objective(learner, episode, progress), self.penalty(learner)
        return result if value is None else result._replace(loss=result.loss + value)


@dataclass(frozen=True)
class Changed:
    """An objective on changed episodes."""

    objective: Objective
    change: Callable[[Learner, Episode], Episode]

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        return self.objective(learner, self.change(learner, episode), progress)


@dataclass(frozen=True)
class Weighted:
    """The sum of two objectives' losses with their weights; what is shown is the first one's."""

    first: Objective
    second: Objective
    weights: tuple[float, float]

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        one, two = self.first(learner, episode, progress), self.second(learner, episode, progress)
        return one._replace(loss=self.weights[0] * one.loss + self.weights[1] * two.loss)


def combine(regularizers: list[Regularizer]) -> Hooks:
    """Return what all of them change together, whatever their order: what attacks images stands outside all else."""
    terms = sorted((r.hooks() for r in regularizers), key=lambda t: t.rank)
    drops = [t.drop for t in terms if t.drop is not None]

    def penalty(learner: Learner) -> Tensor | None:
        values = [v for v in (t.penalty(learner) for t in terms) if v is not None]
        return torch.stack(values).sum() if values else None

    def wrap_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
        return reduce(lambda inside, term: term.wrap_objective(inside, setting), terms, make)

    return Hooks(
        inner=chain([t.inner for t in terms if t.inner is not identity_loss]),
        outer=chain([t.outer for t in terms if t.outer is not identity_loss]),
        wrap_objective=wrap_objective,
        penalty=penalty,
        drop=nn.Sequential(*drops),
        augment=next((t.augment for t in terms if t.augment is not None), None),
        query=any(t.query for t in terms),
        first=any(t.first for t in terms),
        inner_attack=next((t.inner_attack for t in terms if t.inner_attack), ""),
        random_inner=next((t.random_inner for t in terms if t.random_inner), ""),
    )


def chain(wraps: list[Callable[[Loss], Loss]]) -> Callable[[Loss], Loss]:
    """Return the wraps one after another; same_loss where there are none."""
    if not wraps:
        return identity_loss
    return lambda loss: reduce(lambda inside, wrap: wrap(inside), wraps, loss)
