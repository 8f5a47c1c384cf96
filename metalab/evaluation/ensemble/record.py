"""What eval.json holds of an ensemble: its members, what it adds to each of them, and to the best."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metalab.core.statistics import mean_ci95

SHARED = ("way", "shot", "query", "query_balance", "dirichlet", "support_at_most", "unlabelled", "distractors")
SHARED += ("label_noise", "split", "data", "adapted", "seed")
OF_IMAGES = ("episodes", "images")
BEST = "the best member is the best on these very episodes, so that its own accuracy is a little too high"


def ensemble_record(
    how: str,
    rows: Sequence[dict[str, Any]],
    accuracies: Sequence[np.ndarray],
    accuracy: np.ndarray,
    loss: float,
    weights: Sequence[float] | None,
) -> dict[str, Any]:
    """Return the record of an ensemble.

    Args:
        how: mean, vote, stacking or samme.
        rows: the record of each member.
        accuracies: of each member float64 [E], on the episodes (or images) that all have seen.
        accuracy: float64 [E], the ensemble's.
        loss: its mean negative log-likelihood, in nats.
        weights: of the members; None: they count alike.
    """
    members = [
        {**_with_interval(own), **row, **_difference(accuracy, own)}
        | ({} if weights is None else {"weight": weights[i]})
        for i, (row, own) in enumerate(zip(rows, accuracies, strict=True))
    ]
    best = int(np.argmax([own.mean() for own in accuracies]))
    first = rows[0]
    notes = sorted({note for row in rows for note in row.get("note", "").split("; ") if note} | {BEST})
    overlap = sorted({name for row in rows for name in row.get("overlap", [])})
    return {
        "run": " + ".join(_distinct(rows, "run")),
        **{key: first[key] for key in (*SHARED, *OF_IMAGES) if key in first},
        "trained_on": " + ".join(_distinct(rows, "trained_on")),
        "algo": " + ".join(_distinct(rows, "algo")),
        "bn": " + ".join(bn for bn in _distinct(rows, "bn") if bn != "None") or None,
        "transductive": any(row["transductive"] for row in rows),
        "checkpoint": f"{how} of {len(rows)} nets",
        "loss": loss,
        "ensemble": how,
        "weights": None if weights is None else list(weights),
        "members": members,
        "best_member": {"member": best, **_difference(accuracy, accuracies[best])},
        "note": "; ".join(notes),
        **({"overlap": overlap} if overlap else {}),
    }


def _distinct(rows: Sequence[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(row[key]) for row in rows))


def _with_interval(values: np.ndarray) -> dict[str, float]:
    return dict(zip(("accuracy", "ci95"), mean_ci95(values), strict=True))


def _difference(ours: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the mean of the paired differences, the ensemble minus the other, and its 95 % interval (Student's t)."""
    return dict(zip(("difference", "difference_ci95"), mean_ci95(ours - other), strict=True))
