"""From the group reg to what it changes, and what of it does not go with an algorithm."""

from collections.abc import Mapping
from typing import Any

from metalab.algorithms.build import AlgorithmSettings
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.regularizers import ATTACKS, Hooks, combine, identity_loss
from metalab.regularizers.base import TaughtRegularizer, Teacher


def build_regularizers(
    node: Mapping[str, Any], steps: int, trains: AlgorithmSettings | None = None, teacher: Teacher | None = None
) -> Hooks:
    """Build the regularizers of the group reg, and put together what they change.

    Args:
        node: the group: name -> a regularizer's own group.
        steps: the inner steps of the algorithm.
        trains: the algorithm that is trained with them, which each must fit; None: it is evaluated.
        teacher: the trained net that one of them learns from; None: it is not loaded.

    Returns:
        What all of them change together.

    Raises:
        UserError: where one would do nothing, or harm.
    """
    parts = {name: build(part, f"reg.{name}") for name, part in node.items()}
    for name, part in parts.items():
        terms = part.hooks()
        if terms.learned_inner and not steps:
            raise UserError(
                f"reg.{name} learns the loss of inner steps, and this algorithm has none (algo.steps=0): leave {name} "
                "out of reg"
            )
        if terms.inner is not identity_loss and not steps:
            key = terms.inner_off.partition("=")[0]
            raise UserError(
                f"reg.{name}.{key} works on inner steps and this algorithm has none; set reg.{name}.{terms.inner_off}"
            )
        if trains is not None:
            _refuse(name, terms, trains)
            _refuse_random(terms, trains)
    attacks = [name for name, part in parts.items() if part.hooks().rank == ATTACKS]
    if len(attacks) > 1:
        raise UserError(f"reg={attacks}: the second would attack what the first one made of the images; take one")
    if teacher is not None:
        parts = {n: p.with_teacher(teacher) if isinstance(p, TaughtRegularizer) else p for n, p in parts.items()}
    return combine(list(parts.values()))


def _refuse(name: str, terms: Hooks, trains: AlgorithmSettings) -> None:
    """Raise UserError for a regularizer that does not fit how the algorithm is trained."""
    traits = trains.objective_traits
    if terms.query and not traits.learns_from_query:
        raise UserError(f"reg.{name} works on the loss of the query, from which this algorithm does not learn")
    if terms.support and trains.mini_batch is not None:
        raise UserError(f"reg.{name} works on the support, and this algorithm trains on mini-batches, without one")
    reads = traits.reads
    if terms.rank == ATTACKS and terms.query and terms.support and reads != "both":
        raise UserError(
            f"reg.{name}.on attacks support and query, and this algorithm trains on the images of the {reads} alone: "
            f"type reg.{name}.on={reads}"
        )
    if terms.images is not None and {terms.images, reads} == {"query", "support"}:
        raise UserError(
            f"reg.{name}.on={terms.images}: this algorithm trains on the images of the {reads} alone; "
            f"type reg.{name}.on={reads}"
        )
    if terms.classifier and not traits.classifies:
        raise UserError(
            f"reg.{name} makes predictions on target images sure, and algo={trains.name} trains no classifier of all "
            "classes: in an episode most target images are of none of its classes. Type algo=baseline, or leave "
            f"{name} out of reg for one that aligns features, as mmd, coral or dann"
        )
    if terms.draws and traits.solves:
        raise UserError(
            f"reg.{name} draws anew in each pass, and algo={trains.name} solves equations with the Hessian of its "
            f"inner problem, which must stay the same: leave {name} out of reg"
        )
    _refuse_other_loss(name, terms, trains)


def refuse_other_loss(node: Mapping[str, Any], algo: AlgorithmSettings) -> None:
    """Raise UserError where inner steps at a test would have a loss that one of these regularizers is not for."""
    for name, part in node.items():
        terms = build(part, f"reg.{name}").hooks()
        if terms.inner is not identity_loss:
            _refuse_other_loss(name, terms, algo)


def _refuse_other_loss(name: str, terms: Hooks, algo: AlgorithmSettings) -> None:
    if terms.smoothed and algo.loss is not cross_entropy:
        raise UserError(
            f"reg.{name} changes the terms of a cross-entropy, and algo.episode_loss={algo.episode_loss} has "
            f"others: beside it the sum would make no sense; leave {name} out of reg"
        )


def _refuse_random(terms: Hooks, trains: AlgorithmSettings) -> None:
    """Raise UserError for what is drawn anew at each look at an inner problem that is looked at many times."""
    if terms.random_inner and trains.objective_traits.solves:
        raise UserError(
            f"{terms.random_inner} draws another start at each look at the inner problem, and "
            f"algo={trains.name} solves equations with its Hessian, which must stay the same: type "
            f"{terms.random_inner.removesuffix('true')}false"
        )
