"""What a regularizer changes, and how several are put together.

A regularizer's hooks() says what it changes; what it does not name stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from metalab.core.interfaces import Algorithm, AttackedImages, Episode, Learner, Loss, Objective, TaskResult
from metalab.data.sampling.augment import Augment

# ranks: of what takes the algorithm's own loss a second time, of what changes images, attacks them, reads target images
AGAIN, IMAGES, ATTACKS, TARGETS = -1, 1, 2, 3
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


def no_parts(features: int) -> dict[str, nn.Module]:
    """Add no modules."""
    return {}


def leave_net(net: nn.Module) -> None:
    """Leave the net as it is."""


def no_penalty(learner: Learner) -> Tensor | None:
    """Add no penalty."""
    return None


class Remembered(Protocol):
    """A memory of earlier trainings' images, and how much of what is drawn is of it."""

    @property
    def images(self) -> int | None: ...
    @property
    def how(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def memory(self) -> str | None: ...


class Hooks(NamedTuple):
    """What a regularizer changes."""

    inner: Callable[[Loss], Loss] = identity_loss  # the loss of the inner steps, in training and at test
    outer: Callable[[Loss], Loss] = identity_loss  # the loss on the query, in training
    wrap_objective: Callable[[ObjectiveFactory, ObjectiveContext], ObjectiveFactory] = (
        identity_objective  # the objective of a whole episode, in training
    )
    penalty: Callable[[Learner], Tensor | None] = no_penalty  # added to the outer loss, a function of the start theta
    drop: nn.Module | None = None  # behind the body, in training only
    # modules of its own that are learned with the net, from the length of the flattened features; their names begin
    # with reg_, learner.part(NAME, ...) calls them, and evaluations do without
    parts: Callable[[int], dict[str, nn.Module]] = no_parts
    # of the same kind, but evaluations have them too, as the inner steps at test need them; `combine` puts them into
    # parts as well, which is all that training builds
    kept_parts: Callable[[int], dict[str, nn.Module]] = no_parts
    teacher: str | None = None  # the run that it learns from, "" where none is named yet; None: it needs none
    learned_inner: str = ""  # the part whose parameters change the loss of inner steps, "reg.learned_loss"
    target: str = ""  # its name, where it reads unlabelled images of the target domain, Batch.unlabelled of the query
    joint: bool = False  # target images go through the body together with the queries
    classifier: bool = False  # it reads the head's predictions on images of no episode: a plain classifier's
    # done once to the net that is trained, and to no other: forward hooks; UserError for a net that it does not fit
    attach: Callable[[nn.Module], None] = leave_net
    draws: bool = False  # attach makes each pass through the net draw random numbers
    augment: Augment | None = None  # what the sampler does to the images, in training
    query: bool = False  # it does nothing where the loss on the query is not differentiated
    support: bool = False  # it does nothing where there is no support
    images: AttackedImages | None = (
        None  # it changes these images alone, and does nothing where none of them is learned from
    )
    smoothed: bool = False  # it changes the terms of a cross-entropy, and beside another loss makes no sense
    unequal: str = ""  # its name, where it does nothing while all classes of a support have as many images
    first: bool = False  # it climbs the loss of the model before the first inner step
    inner_off: str = "inner=0"  # the setting that leaves the inner steps as they are
    inner_attack: str = ""  # the part that attacks the support in inner steps, "reg.adv_pgd"
    random_inner: str = (
        ""  # the setting by which two looks at one inner problem differ, "reg.adv_pgd.random_start=true"
    )
    replay: Remembered | None = None  # it draws images of earlier trainings among the current ones
    rank: int = 0  # the higher, the further outside of the others it stands: AGAIN, 0, IMAGES, ATTACKS or TARGETS


class Regularizer(Protocol):
    def hooks(self) -> Hooks: ...


class Teacher(Protocol):
    """A trained net that a student learns from: all that it says is a constant."""

    @property
    def features(self) -> int:
        """Return D, the length of its flattened features."""
        ...

    def logits(self, episode: Episode, way: int) -> Tensor:
        """Return its logits [N,K] of an episode's queries, after it has adapted to the support where there is one."""
        ...

    def embed(self, x: Tensor) -> Tensor:
        """Return its flattened features [N,D] of images [N,C,H,W]."""
        ...


@runtime_checkable
class TaughtRegularizer(Regularizer, Protocol):
    """A regularizer that learns from a trained net, which training loads for it and evaluations do without."""

    def with_teacher(self, teacher: Teacher) -> Regularizer:
        """Return what changes the training, now that the teacher is there."""
        ...


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

    def parts(features: int) -> dict[str, nn.Module]:
        made = [made for term in terms for made in (term.parts(features), term.kept_parts(features))]
        return {name: part for each in made for name, part in each.items()}

    def kept_parts(features: int) -> dict[str, nn.Module]:
        return {name: part for term in terms for name, part in term.kept_parts(features).items()}

    def attach(net: nn.Module) -> None:
        for term in terms:
            term.attach(net)

    return Hooks(
        inner=chain([t.inner for t in terms if t.inner is not identity_loss]),
        outer=chain([t.outer for t in terms if t.outer is not identity_loss]),
        wrap_objective=wrap_objective,
        penalty=penalty,
        drop=nn.Sequential(*drops),
        parts=parts,
        kept_parts=kept_parts,
        teacher=next((t.teacher for t in terms if t.teacher is not None), None),
        learned_inner=next((t.learned_inner for t in terms if t.learned_inner), ""),
        target=next((t.target for t in terms if t.target), ""),
        joint=any(t.joint for t in terms),
        attach=attach,
        augment=next((t.augment for t in terms if t.augment is not None), None),
        replay=next((t.replay for t in terms if t.replay is not None), None),
        query=any(t.query for t in terms),
        unequal=next((t.unequal for t in terms if t.unequal), ""),
        first=any(t.first for t in terms),
        inner_attack=next((t.inner_attack for t in terms if t.inner_attack), ""),
        random_inner=next((t.random_inner for t in terms if t.random_inner), ""),
    )


def chain(wraps: list[Callable[[Loss], Loss]]) -> Callable[[Loss], Loss]:
    """Return the wraps one after another; same_loss where there are none."""
    if not wraps:
        return identity_loss
    return lambda loss: reduce(lambda inside, wrap: wrap(inside), wraps, loss)
