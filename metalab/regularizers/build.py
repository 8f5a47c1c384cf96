"""From the group reg to what it changes, and what of it does not go with an algorithm."""

from collections.abc import Mapping
from typing import Any

from metalab.algorithms.build import AlgorithmSettings
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.regularizers import ATTACKS, Hooks, combine, identity_loss


def build_regularizers(node: Mapping[str, Any], steps: int, trains: AlgorithmSettings | None = None) -> Hooks:
    """Build the regularizers of the group reg, and put together what they change.

    Args:
        node: the group: name -> a regularizer's own group.
        steps: the inner steps of the algorithm.
        trains: the algorithm that is trained with them, which each must fit; None: it is evaluated.

    Returns:
        What all of them change together.

    Raises:
        UserError: where one would do nothing, or harm.
    """
    parts = {name: build(part, f"reg.{name}") for name, part in node.items()}
    for name, part in parts.items():
        terms = part.hooks()
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
    if terms.smoothed and trains.loss is not cross_entropy:
        raise UserError(
            f"reg.{name} smooths the targets of a cross-entropy, and algo.episode_loss={trains.episode_loss} has "
            f"others: beside it the sum would have no least value; leave {name} out of reg"
        )


def _refuse_random(terms: Hooks, trains: AlgorithmSettings) -> None:
    """Raise UserError for what is drawn anew at each look at an inner problem that is looked at many times."""
    if terms.random_inner and trains.objective_traits.solves:
        raise UserError(
            f"{terms.random_inner} draws another start at each look at the inner problem, and "
            f"algo={trains.name} solves equations with its Hessian, which must stay the same: type "
            f"{terms.random_inner.removesuffix('true')}false"
        )
