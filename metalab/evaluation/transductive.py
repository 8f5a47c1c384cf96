"""Where a model infers its images jointly: what of an evaluation that allows, and what a record says about it."""

from metalab.attacks.fgsm import FGSM
from metalab.attacks.pgd import PGD
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, algorithm_traits
from metalab.evaluation.robustness import Attacks


def refuse_evaluation(algorithm: Algorithm, name: str, bn: str, attacks: Attacks, unknown: int | None) -> None:
    """Raise UserError for what an evaluation cannot do with a model that infers its images jointly."""
    refuse_support_pass(algorithm, name, bn)
    refuse_attacks(algorithm, name, attacks)
    if unknown is not None:
        refuse_unknown(algorithm, name, unknown)


def is_transductive(algorithm: Algorithm) -> bool:
    """Return whether an algorithm's model infers all images of one call jointly."""
    return algorithm_traits(algorithm).transductive


def note(name: str) -> str:
    """Return what stands on a record of such an algorithm."""
    return f"algo={name} infers all queries of an episode together: each answer depends on the others"


def refuse_support_pass(algorithm: Algorithm, name: str, bn: str, key: str = "eval.bn") -> None:
    """Raise UserError for batch-norm statistics that pass the support, or one query at a time, through the model."""
    if is_transductive(algorithm) and bn in ("support", "one"):
        how = "one query at a time beside the support" if bn == "one" else "the support along with the queries"
        raise UserError(
            f"{key}={bn} gives the model {how}, and algo={name} infers all that it is given together, as queries: type "
            f"{key}=running, or batch"
        )


def refuse_unknown(algorithm: Algorithm, name: str, unknown: int) -> None:
    """Raise UserError for queries of other classes, which would be inferred as if they were of the episode's."""
    if is_transductive(algorithm):
        raise UserError(
            f"eval.unknown={unknown}: algo={name} infers all queries of an episode together, so that those of other "
            "classes would change the answers to its own: type eval.unknown=null, or a method that takes each query "
            "by itself, algo=simpleshot"
        )


def refuse_attacks(algorithm: Algorithm, name: str, attacks: Attacks) -> None:
    """Raise UserError for attacks that are not right against a model that infers the queries jointly.

    FGSM and PGD move all queries at once along the gradient through the inference. The others keep the best of each
    image by itself, or give the model a part of the queries.
    """
    if not is_transductive(algorithm):
        return
    other = [key for (key, _), attack in attacks.built.items() if not isinstance(attack, FGSM | PGD)]
    if other:
        raise UserError(
            f"attack.{other[0]} looks at each query by itself, and algo={name} infers all of them together: type "
            "attack=pgd or attack=fgsm, which move all queries at once"
        )
    if attacks.built and attacks.shared.on != "query" and attacks.shared.support == "own_loss":
        raise UserError(
            f"attack.support=own_loss gives the support to the model as queries, and algo={name} infers all that it is "
            "given together: type attack.support=adapt"
        )
