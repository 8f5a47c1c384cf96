"""The attacked part of an evaluation: accuracy under each attack of cfg.attack, on the episodes of the clean one."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalab.attacks.autoattack import AutoAttack
from metalab.attacks.base import Attack
from metalab.attacks.build import AttackSettings, attacks
from metalab.attacks.fab import FAB
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, TaskResult, algorithm_traits
from metalab.core.statistics import mean_ci95
from metalab.regularizers import Hooks

CLIMBED = {
    "adapt": "it climbs the queries' loss through the adaptation, by exact derivatives (second-order in inner steps)",
    "own_loss": "it climbs the support's own loss before the first inner step, a surrogate and not the worst case",
}
TRAINED = {"support": "support", "one": "support", "running": "batch"}  # eval.bn -> the train.bn that it fits


@dataclass(frozen=True)
class Attacks:
    """What cfg.attack and eval.eps ask for, built."""

    shared: AttackSettings
    built: dict[tuple[str, float], Attack]  # by name and eps in 255ths

    @property
    def by_key(self) -> dict[str, Attack]:
        """Return the attacks under one word each."""
        return {key(*pair): attack for pair, attack in self.built.items()}


def key(name: str, eps: float) -> str:
    """Return the word for an attack at an eps."""
    return f"{name}@{eps:g}"


def build_attacks(node: Any, curve: list[float] | None) -> Attacks:
    """Build what cfg.attack and eval.eps ask for; UserError for a mistake."""
    return Attacks(*attacks(node, curve))


def refuse_transductive(attacks: Attacks, bn: str) -> None:
    """Raise UserError where an attacked query would lean on the statistics of the others."""
    if attacks.built and bn == "batch":
        raise UserError(
            "an attack with bn=batch: an attacked query would change the answers to the others. Type eval.bn=support "
            "for a net trained with train.bn=support, or eval.bn=running for one without inner steps, trained with "
            "train.bn=batch"
        )


def refuse_boundary(attacks: Attacks) -> None:
    """Raise UserError where an attack that looks for the nearest image of another class would attack a support."""
    boundary = [name for (name, _), attack in attacks.built.items() if isinstance(attack, FAB)]
    if boundary and attacks.shared.through_adapt:
        raise UserError(
            f"attack.{boundary[0]} with attack.on={attacks.shared.on}: FAB looks for the nearest image that a model "
            "gets wrong, and a support is no such image: type attack=pgd or attack=auto, which leaves it out, or "
            "attack.support=own_loss"
        )


def refuse_random(attacks: Attacks, algorithm: Algorithm, terms: Hooks) -> None:
    """Raise UserError where a task would be adapted in another way whenever it is adapted."""
    if attacks.built and (algorithm_traits(algorithm).head_init == "random" or terms.random_inner):
        what = terms.random_inner or "algo.head_init=random"
        raise UserError(
            f"{what} adapts a task in another way each time, so that accuracy with and without an attack would be of "
            "two models: evaluate it without attack"
        )


def batch_norm_note(bn: str, trained: str) -> str:
    """Return what is noted on a robust number whose batch norm is not the training's, "" where it is."""
    return "" if TRAINED[bn] == trained else f"attacked with bn={bn}, trained with train.bn={trained}"


def support_attack_notes(attacks: Attacks) -> set[str]:
    """Return what is noted on the accuracy under attacks on the support, nothing where there are none."""
    shared = attacks.shared
    if shared.on == "query":
        return set()
    then = ", queries attacked at it and at the clean one" if shared.on == "both" else ""
    notes = {f"attack.on={shared.on}: one poisoned support for all queries of a task, the worst tried{then}"}
    if any(isinstance(attack, AutoAttack) for attack in attacks.built.values()) and shared.through_adapt:
        notes.add("attack.auto on supports: without FAB")
    return notes | {f"attack.support={shared.support}: {CLIMBED[shared.support]}"}


def records(attacks: Attacks, results: Iterable[TaskResult], episodes: int) -> list[dict[str, Any]]:
    """Return a record for each attack and eps, and, of several attacks, their worst case at each eps, named all.

    results: of the objective Robust, a meta-batch each; the first `episodes` episodes count. eps is in 255ths.
    """
    right: dict[str, list[Tensor]] = {k: [] for k in attacks.by_key}
    zero: dict[str, list[Tensor]] = {k: [] for k in attacks.by_key}
    for result in results:
        for k in right:
            right[k].append(result.scalars[f"right/{k}"].cpu())
            zero[k].append(result.scalars[f"zero/{k}"].cpu())
    made = []
    for (name, eps), attack in attacks.built.items():
        k = key(name, eps)
        dead = torch.cat(zero[k])[:episodes].double().nanmean().item()  # nan: nothing was attacked
        steps, share = attack.steps, None if math.isnan(dead) else dead
        made.append(_record(attacks, name, eps, steps, right[k], episodes, share))
    names = {name for name, _ in attacks.built}
    for eps in dict.fromkeys(eps for _, eps in attacks.built) if len(names) > 1 else []:
        batches = zip(*(right[key(name, eps)] for name in names), strict=True)
        least = [worst(torch.stack(batch), attacks.shared) for batch in batches]
        made.append(_record(attacks, "all", eps, None, least, episodes, None))
    return made


def worst(right: Tensor, shared: AttackSettings) -> Tensor:
    """Return what several attacks leave right, bool [A,T,N] -> [T,N]: a query by all; of supports each task has one."""
    if shared.on == "query":
        return right.all(0)
    return right[right.sum(2).argmin(0), torch.arange(right.shape[1])]


def _record(
    attacks: Attacks, name: str, eps: float, steps: int | None, right: list[Tensor], episodes: int, zero: float | None
) -> dict[str, Any]:
    """right: bool [T,N] of each meta-batch; N may differ, where the way does."""
    accuracy, ci95 = mean_ci95(torch.cat([batch.double().mean(1) for batch in right])[:episodes].numpy())
    s = attacks.shared
    shared = {"norm": s.norm, "on": s.on, "support": None if s.on == "query" else s.support, "eps": eps, "steps": steps}
    return {"name": name, **shared, "accuracy": accuracy, "ci95": ci95, "zero_gradients": zero}
