"""Adversarial training: FGSM or PGD against the queries, the support, both, or crossed as in ADML."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from metalab.attacks.base import Norm
from metalab.attacks.build import in_range, scaled
from metalab.attacks.fgsm import FGSM
from metalab.attacks.losses import Loss as Climbed
from metalab.attacks.losses import divergence
from metalab.attacks.pgd import PGD
from metalab.attacks.zero_gradients import recording, zero_gradient_share
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Learner, Loss, Model, Objective, TaskResult
from metalab.regularizers.adml import ADMLObjective
from metalab.regularizers.base import (
    ATTACKS,
    Changed,
    Hooks,
    ObjectiveContext,
    ObjectiveFactory,
    Weighted,
    identity_objective,
)
from metalab.regularizers.output_penalties import CachedModel

On = Literal["query", "support", "both", "crossed"]
Where = Literal["outer", "inner"]
How = Literal["replace", "add", "trades"]


@dataclass(frozen=True)
class AdversarialSettings:
    """How a training attack is used.

    on: query: under the adapted model; support: its images with their labels, under the model before the first inner
    step (for a metric method: the one made from the clean support), and the task adapts to what comes out: a surrogate
    of the queries' loss through the adaptation (objectives/support_attack.py), whose worst case it is not; both: both
    at once; crossed: ADML. where: outer: once an episode; inner: in each inner step, on the weights of that step.
    how: replace; add: clean loss + weight x attacked loss; trades: clean loss + weight x KL(clean || attacked), which
    is then what the attack climbs.
    """

    name: str
    on: On
    where: Where
    how: How
    weight: float

    def __post_init__(self) -> None:
        if self.where == "inner" and self.on != "support":
            raise UserError(
                f"{self.name}.where=inner with {self.name}.on={self.on}: the inner steps see the support alone; "
                f"type {self.name}.on=support, or {self.name}.where=outer"
            )
        if self.where == "outer" and self.how == "trades" and self.on != "query":
            raise UserError(
                f"{self.name}.how=trades with {self.name}.on={self.on}: it compares one model's predictions on clean "
                f"and attacked images; type {self.name}.on=query, or {self.name}.how=replace"
            )
        if self.on == "crossed" and self.how != "replace":
            raise UserError(f"{self.name}.on=crossed is the mean of its two halves; type {self.name}.how=replace")
        if self.weight < 0:
            raise UserError(f"{self.name}.weight={self.weight:g}: expected 0 or more")


def attack_hooks(use: AdversarialSettings, attack: FGSM | PGD) -> Hooks:
    """Return what an attack, used so, changes."""
    drawn = f"{use.name}.random_start=true" if attack.random_start else ""

    def on_loss(loss: Loss) -> Loss:
        return attacked_loss(loss, attack, use.how, use.weight)

    def wrap_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
        def change(learner: Learner, episode: Episode) -> Episode:
            support = episode.support
            first = next(iter(setting.algorithm.adapt(learner, support, setting.inner, setting.steps)))
            return episode._replace(support=support._replace(x=attack(first, support.x, support.y)))

        def made(outer: Loss) -> Objective:
            attacked = attacked_loss(outer, attack, "replace", 1.0)
            if use.on == "crossed":
                return ADMLObjective(make(outer), change, make(attacked))
            changed = Changed(make(attacked if use.on == "both" else outer), change)
            return changed if use.how == "replace" else Weighted(make(outer), changed, (1.0, use.weight))

        return made

    if use.where == "inner":
        return Hooks(
            inner=on_loss,
            wrap_objective=log_zero_gradients(identity_objective),
            inner_off="where=outer",
            inner_attack=use.name,
            random_inner=drawn,
            rank=ATTACKS,
        )
    if use.on == "query":
        return Hooks(outer=on_loss, wrap_objective=log_zero_gradients(identity_objective), query=True, rank=ATTACKS)
    return Hooks(
        wrap_objective=log_zero_gradients(wrap_objective),
        query=use.on != "support",
        support=True,
        first=True,
        rank=ATTACKS,
    )


def log_zero_gradients(
    wrap_objective: Callable[[ObjectiveFactory, ObjectiveContext], ObjectiveFactory],
) -> Callable[[ObjectiveFactory, ObjectiveContext], ObjectiveFactory]:
    """Return the same change of an objective, Watched."""
    return lambda make, setting: lambda outer: LoggedZeroGradients(wrap_objective(make, setting)(outer))


@dataclass(frozen=True)
class LoggedZeroGradients:
    """An objective that shows `zero_gradients`, the share over all images and steps of the attacks inside."""

    objective: Objective

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        with recording() as dead:
            result = self.objective(learner, episode, progress)
        shown = {"zero_gradients": zero_gradient_share(dead, result.loss)} if dead else {}
        return result._replace(scalars=result.scalars | shown)


def attacked_loss(loss: Loss, attack: FGSM | PGD, how: How, weight: float) -> Loss:
    """Return the loss on attacked images; the attack sees the weights as constants, the loss is taken anew."""

    def replaced(model: Model, batch: Batch) -> Tensor:
        return loss(model, batch._replace(x=attack(model, batch.x, batch.y)))

    def added(model: Model, batch: Batch) -> Tensor:
        return loss(model, batch) + weight * replaced(model, batch)

    def trades(model: Model, batch: Batch) -> Tensor:
        clean = model(batch.x)
        *_, last = attack.ascend(model, batch.x, divergence(clean.detach()))
        return loss(CachedModel(model, batch.x, clean), batch) + weight * divergence(clean)(model(last.x)).mean()

    return {"replace": replaced, "add": added, "trades": trades}[how]


@dataclass(frozen=True)
class AdvFGSM:
    """Train on FGSM (Goodfellow et al. 2015); eps and step in 255ths, step null as in the attack."""

    eps: float
    norm: Norm
    step: float | None
    random_start: bool
    loss: Climbed
    on: On
    where: Where
    how: How
    weight: float

    def __post_init__(self) -> None:
        self.hooks()

    def hooks(self) -> Hooks:
        in_range("reg.adv_fgsm.eps", self.eps)
        use = AdversarialSettings("reg.adv_fgsm", self.on, self.where, self.how, self.weight)
        _refuse_flat(use, self.random_start)
        sizes = scaled({"eps": self.eps, "step": self.step})
        return attack_hooks(use, FGSM(sizes["eps"], self.norm, sizes["step"], self.random_start, self.loss))


@dataclass(frozen=True)
class AdvPGD:
    """Train on PGD (Madry et al. 2018); eps and step in 255ths, step null as in the attack."""

    eps: float
    norm: Norm
    steps: int
    step: float | None
    random_start: bool
    loss: Climbed
    on: On
    where: Where
    how: How
    weight: float

    def __post_init__(self) -> None:
        self.hooks()

    def hooks(self) -> Hooks:
        in_range("reg.adv_pgd.eps", self.eps)
        use = AdversarialSettings("reg.adv_pgd", self.on, self.where, self.how, self.weight)
        _refuse_flat(use, self.random_start)
        sizes = scaled({"eps": self.eps, "step": self.step})
        return attack_hooks(
            use, PGD(sizes["eps"], self.norm, self.steps, sizes["step"], self.random_start, 1, self.loss)
        )


def _refuse_flat(use: AdversarialSettings, random_start: bool) -> None:
    if use.how == "trades" and not random_start:
        raise UserError(
            f"{use.name}.how=trades with {use.name}.random_start=false: at the image itself KL is least and its "
            f"gradient 0; type {use.name}.random_start=true"
        )
