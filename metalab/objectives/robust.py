"""What is measured under attack, not for training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from metalab.attacks.auto import Auto
from metalab.attacks.steps import Attack
from metalab.attacks.zeros import share
from metalab.interfaces import Algorithm, Batch, Episode, Learner, Loss, Model, TaskResult
from metalab.objectives.judge import Prediction, right


@dataclass(frozen=True)
class Robust:
    """Which queries are right clean and after all that each attack tried, and the share of exactly zero gradients.

    scalars: `right/NAME` bool [N] and `zero/NAME`. A support attack raises the loss of the support images, each with
    its label, under the model before the first inner step (for a metric method: the one made from the clean support),
    and the task is adapted anew to every support that it tried. Under `both` the queries are then attacked as well,
    and the supports are where its climbs ended: an attack on the queries after each step would take the square of the
    steps. drop: see withstood.
    """

    algorithm: Algorithm
    steps: int
    inner: Loss
    predict: Prediction
    attacks: Mapping[str, Attack]
    on: Literal["query", "support", "both"]
    drop: bool = False

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        support, query = episode
        model = self._adapted(learner, support)
        clean = self._right(model, support, query)
        shown = {"loss": query.x.new_zeros(())}
        for name, attack in self.attacks.items():
            still, dead = clean, []
            for given in self._supports(learner, support, attack, dead):
                target = model
                if given is not support:
                    target = self._adapted(learner, given)
                    still = still & self._right(target, given, query)
                if self.on != "support":
                    still = still & withstood(attack, partial(self.predict, target, given.x), query, dead, self.drop)
            shown |= {f"right/{name}": still, f"zero/{name}": share(dead, query.x)}
        return TaskResult(shown["loss"], clean, shown, {})

    def _adapted(self, learner: Learner, support: Batch) -> Model:
        *_, model = self.algorithm.adapt(learner, support, self.inner, self.steps)
        return model

    def _right(self, model: Model, support: Batch, query: Batch) -> Tensor:
        return right(self.predict(model, support.x, query.x), query.y)

    def _supports(self, learner: Learner, support: Batch, attack: Attack, dead: list[Tensor]) -> Iterator[Batch]:
        """Yield the support as it is (query), at all that the attack tried (support), or where climbs ended (both)."""
        if self.on == "query":
            yield support
            return
        first = next(iter(self.algorithm.adapt(learner, support, self.inner, self.steps)))
        for tried in attack.tries(first, support.x, support.y):
            dead += [] if tried.dead is None else [tried.dead]
            ended, known = tried.logits is None, tried.x is support.x  # a climb may begin there: adapted to already
            if ended if self.on == "both" else not known:
                yield support._replace(x=tried.x)


def withstood(attack: Attack, model: Model, query: Batch, dead: list[Tensor], drop: bool = False) -> Tensor:
    """Return bool [N], which images the model gets right after every try; add the zero gradients to `dead`.

    drop: the parts of attack=auto get the images that all before them left right, as AutoAttack does it; how many that
    are depends on the data, which vmap does not allow.
    """
    if not (drop and isinstance(attack, Auto)):
        return _withstood(attack, model, query, dead)
    left = right(model(query.x), query.y).nonzero()[:, 0]
    for part in attack.parts():
        if len(left):
            left = left[_withstood(part, model, query._replace(x=query.x[left], y=query.y[left]), dead)]
    return torch.zeros_like(query.y).bool().index_fill(0, left, True)


def _withstood(attack: Attack, model: Model, query: Batch, dead: list[Tensor]) -> Tensor:
    still = torch.ones_like(query.y).bool()
    for tried in attack.tries(model, query.x, query.y):
        dead += [] if tried.dead is None else [tried.dead]
        logits = model(tried.x) if tried.logits is None else tried.logits
        still = still & right(logits, query.y)
    return still
