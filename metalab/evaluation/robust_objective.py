"""What is measured under attack, not for training."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction, correct
from metalab.algorithms.objectives.support_attack import SupportAttack
from metalab.attacks.autoattack import AutoAttack
from metalab.attacks.base import Attack
from metalab.attacks.build import SupportAttackLoss
from metalab.attacks.zero_gradients import zero_gradient_share
from metalab.core.interfaces import Algorithm, AttackedImages, Batch, Episode, Learner, Loss, Model, TaskResult


@dataclass(frozen=True)
class RobustObjective:
    """Which queries are right clean and after all that each attack tried, and the share of exactly zero gradients.

    scalars: `right/NAME` bool [N] and `zero/NAME`. An attack on the support leaves one poisoned support, the same for
    all queries: of the clean one and all that were tried, the one that leaves the fewest right (SupportAttack). Under
    `both` the queries are attacked at that support and at the clean one; the one that then leaves the fewest counts.
    support: what an attack on the support climbs, see SupportAttack. drop: whether AutoAttack's later attacks are
    spared the images that an earlier one has fooled.
    """

    algorithm: Algorithm
    steps: int
    inner: Loss
    predict: Prediction
    attacks: Mapping[str, Attack]
    on: AttackedImages
    drop: bool = False
    support: SupportAttackLoss = "adapt"

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        support, query = episode
        poison = SupportAttack(self.algorithm, self.steps, self.inner, self.predict, self.support == "adapt")
        model = poison.adapted(learner, support)
        clean = correct(self.predict(model, support.x, query.x), query.y)
        shown = {"loss": query.x.new_zeros(())}
        for name, attack in self.attacks.items():
            still, dead = clean, []
            if self.on != "support":
                still = still & self._withstood(attack, model, support, query, dead)
            if self.on != "query":
                given, poisoned = poison.worst(learner, episode, clean, attack, dead)
                if self.on == "both":
                    target = poison.adapted(learner, given)
                    poisoned = poisoned & self._withstood(attack, target, given, query, dead)
                still = torch.where(poisoned.sum() <= still.sum(), poisoned, still)
            shown |= {f"right/{name}": still, f"zero/{name}": zero_gradient_share(dead, query.x)}
        return TaskResult(shown["loss"], clean, shown, {})

    def _withstood(self, attack: Attack, model: Model, support: Batch, query: Batch, dead: list[Tensor]) -> Tensor:
        return robust_correct(attack, partial(self.predict, model, support.x), query, dead, self.drop)


def robust_correct(attack: Attack, model: Model, query: Batch, dead: list[Tensor], drop: bool = False) -> Tensor:
    """Return bool [N], which images the model gets right after every try; add the zero gradients to `dead`.

    drop: the parts of attack=auto get the images that all before them left right, as AutoAttack does it; how many that
    are depends on the data, which vmap does not allow.
    """
    if not (drop and isinstance(attack, AutoAttack)):
        return _withstood(attack, model, query, dead)
    left = correct(model(query.x), query.y).nonzero()[:, 0]
    for part in attack.parts():
        if len(left):
            left = left[_withstood(part, model, query._replace(x=query.x[left], y=query.y[left]), dead)]
    return torch.zeros_like(query.y).bool().index_fill(0, left, True)


def _withstood(attack: Attack, model: Model, query: Batch, dead: list[Tensor]) -> Tensor:
    still = torch.ones_like(query.y).bool()
    for tried in attack.iterates(model, query.x, query.y):
        dead += [] if tried.dead is None else [tried.dead]
        logits = model(tried.x) if tried.logits is None else tried.logits
        still = still & correct(logits, query.y)
    return still
