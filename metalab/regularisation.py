"""From cfg.reg to what it changes, and what of it does not go with an algorithm."""

from collections.abc import Mapping
from typing import Any

from metalab.assemble import Method
from metalab.config import build, locate
from metalab.errors import UserError
from metalab.regularisers import ATTACKS, Terms, combine, same_loss


def regularisation(node: Mapping[str, Any], steps: int, trains: Method | None = None) -> Terms:
    """Build the regularisers of cfg.reg; UserError where one would do nothing, or harm."""
    parts = {name: build(part, f"reg.{name}") for name, part in node.items()}
    for name, part in parts.items():
        terms = part.terms()
        if terms.inner is not same_loss and not steps:
            key, off = ("where", "outer") if "where" in vars(part) else ("inner", 0)
            raise UserError(
                f"reg.{name}.{key} works on inner steps and this algorithm has none; set reg.{name}.{key}={off}"
            )
        if trains is not None:
            _refuse(name, terms, trains)
            _refuse_random(name, part, trains)
    attacks = [name for name, part in parts.items() if part.terms().rank == ATTACKS]
    if len(attacks) > 1:
        raise UserError(f"reg={attacks}: the second would attack what the first one made of the images; take one")
    return combine(list(parts.values()))


def _refuse(name: str, terms: Terms, trains: Method) -> None:
    """Raise UserError for a regulariser that does not fit how the algorithm is trained."""
    learns = vars(locate(trains.objective, "algo.objective"))
    if terms.query and not learns.get("LEARNS_FROM_QUERY", True):
        raise UserError(f"reg.{name} works on the loss of the query, from which this algorithm does not learn")
    if terms.support and trains.mini_batch is not None:
        raise UserError(f"reg.{name} works on the support, and this algorithm trains on mini-batches, without one")
    reads = learns.get("READS", "both")
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
    if terms.smoothed and trains.episode_loss != Method.episode_loss:
        raise UserError(
            f"reg.{name} smooths the targets of a cross-entropy, and algo.episode_loss={trains.episode_loss} has "
            f"others: beside it the sum would have no least value; leave {name} out of reg"
        )


def _refuse_random(name: str, part: Any, trains: Method) -> None:
    """Raise UserError for what is drawn anew at each look at an inner problem that is looked at many times."""
    own = vars(part)
    if solves(trains) and own.get("where") == "inner" and own.get("random_start"):
        raise UserError(
            f"reg.{name}.random_start=true draws another start at each look at the inner problem, and "
            f"algo={trains.name} solves equations with its Hessian, which must stay the same: type "
            f"reg.{name}.random_start=false"
        )


def solves(trains: Method) -> bool:
    """Whether the training objective solves equations of the inner problem."""
    return vars(locate(trains.objective, "algo.objective")).get("SOLVES", False)
