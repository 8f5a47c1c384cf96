"""Knowledge distillation: a student learns the predictions of a trained net, and its features where that is asked."""

from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Learner, Loss, Model, Objective, TaskResult
from metalab.regularizers.base import Hooks, ObjectiveContext, ObjectiveFactory, Regularizer, Teacher

REGRESSOR = "reg_regressor"  # from the student's features to the teacher's


def divergence_from_teacher(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) of the softmax of logits [N,K] over T, the mean over the images.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), sec. 2: T^2, as the gradient of the
    divergence shrinks by it.
    """
    p, q = ((logits / temperature).log_softmax(1) for logits in (teacher, student))
    return temperature**2 * (p.exp() * (p - q)).sum(1).mean()  # vmap has no rule for F.kl_div


def with_targets(loss: Loss, teacher: Tensor, weight: float, temperature: float) -> Loss:
    """Return (1 - weight) loss + weight T^2 KL(teacher || student), the teacher's logits [N,K] being a constant."""

    def value(model: Model, batch: Batch) -> Tensor:
        taught = divergence_from_teacher(model(batch.x), teacher, temperature)
        return (1 - weight) * loss(model, batch) + weight * taught

    return value


def hint_loss(learner: Learner, x: Tensor, teacher: Tensor) -> Tensor:
    """Return half the mean squared difference of the regressed features of images [N,C,H,W] and the teacher's [N,D].

    Romero et al., "FitNets: Hints for Thin Deep Nets" (2015), eq. 3, the mean over elements and not the sum, so that
    its weight means the same for features of any length.
    """
    return F.mse_loss(learner.part(REGRESSOR, learner.features(x).flatten(1)), teacher) / 2


@dataclass(frozen=True)
class Distill:
    """Learn from a teacher: (1 - weight) loss + weight T^2 KL(teacher || student) on the queries, and hints.

    On episodes the teacher adapts to the same support by its own algorithm. Evaluations know nothing of it.

    teacher: the run's folder; None: training with train.generations names the generation before.
    features_weight: of the hints, FitNets' loss on the features, which a learned regressor maps to the teacher's.
    """

    teacher: str | None
    weight: float
    temperature: float
    features_weight: float

    def __post_init__(self) -> None:
        check_positive("reg.distill.temperature", self.temperature)
        if not 0 <= self.weight <= 1:
            raise UserError(f"reg.distill.weight={self.weight:g}: expected a share from 0 to 1")
        if self.features_weight < 0:
            raise UserError(f"reg.distill.features_weight={self.features_weight:g}: expected 0 or more")

    def hooks(self) -> Hooks:
        return Hooks(query=True, teacher=self.teacher or "")

    def with_teacher(self, teacher: Teacher) -> Regularizer:
        return DistillFrom(self, teacher)


@dataclass(frozen=True)
class DistillFrom:
    """Distillation whose teacher is loaded."""

    settings: Distill
    teacher: Teacher

    def hooks(self) -> Hooks:
        def wrap_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
            own: Any = setting.algorithm  # a dataclass with a field `way`, as config.build has seen to
            return lambda outer: DistilledObjective(self.settings, self.teacher, own.way, make, outer)

        hooks = self.settings.hooks()
        if self.settings.weight or self.settings.features_weight:
            hooks = hooks._replace(wrap_objective=wrap_objective)
        return hooks._replace(parts=self._regressor) if self.settings.features_weight else hooks

    def _regressor(self, features: int) -> dict[str, nn.Module]:
        return {REGRESSOR: nn.Linear(features, self.teacher.features)}


@dataclass(frozen=True)
class DistilledObjective:
    """An objective whose loss on the queries has the teacher's predictions in it, for this episode's images."""

    settings: Distill
    teacher: Teacher
    way: int
    make: ObjectiveFactory
    outer: Loss

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        how, loss = self.settings, self.outer
        if how.weight:
            loss = with_targets(loss, self.teacher.logits(episode, self.way), how.weight, how.temperature)
        objective = cast(Objective, self.make(loss))
        result = objective(learner, episode, progress)
        if how.features_weight:
            hint = hint_loss(learner, episode.query.x, self.teacher.embed(episode.query.x))
            result = result._replace(loss=result.loss + how.features_weight * hint)
        return result
