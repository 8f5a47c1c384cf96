"""The report of a plain classifier: precision, recall and F1 of each class, confusion, calibration."""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from metalab.core.interfaces import Split
from metalab.core.text import printable
from metalab.evaluation import calibration
from metalab.evaluation.query_predictions import predicted
from metalab.tracking.class_report import ClassReport, Confusion, classification_text

KEYS = ("precision", "recall", "f1", "support")
AVERAGES = ("macro", "weighted")  # over the classes alike, and by their support


def classifier_report(
    logits: Tensor, labels: Tensor, split: Split, temperature: float | None, pictures: bool
) -> tuple[dict[str, Any], ClassReport]:
    """Report on a classifier.

    Args:
        logits: float [N,K], on the processor.
        labels: int64 [N].
        split: whose K classes they are.
        temperature: divides the logits for a second look at the calibration; None: there is none.
        pictures: whether there are pictures.

    Returns:
        What belongs into eval.json: classes, averages and calibration. And what is written beside it.
    """
    true, guessed = labels.numpy(), predicted(logits).numpy()
    scores, averages = class_scores(true, guessed, split)
    columns = {"class": split.ids, **scores}
    each = zip(*columns.values(), strict=True)
    calibrated = {"bins": calibration.BINS, **_calibration(logits, labels, 1.0)}
    if temperature is not None:
        calibrated |= {"temperature": temperature, "scaled": _calibration(logits, labels, temperature)}
    facts = {
        "classes": {name: dict(zip(KEYS, values, strict=True)) for name, *values in each},
        "averages": averages,
        "calibration": calibrated,
    }
    names = [printable(name) for name in split.names]
    (rows, taken), count = np.unique(np.stack([true, guessed]), axis=1, return_counts=True)
    confusion = Confusion(names, rows, taken, count)
    drawn = {}
    if pictures:
        drawn = confusion.picture(f"{len(true)} images") | {"reliability": partial(_diagram, logits, labels, 1.0)}
        if temperature is not None:
            drawn["reliability_scaled"] = partial(_diagram, logits, labels, temperature)
    scalars = {"f1_macro": averages["macro"]["f1"], "ece": calibrated["ece"]}
    return facts, ClassReport(columns, confusion, classification_text(true, guessed, names), drawn, scalars)


def class_scores(
    true: np.ndarray, guessed: np.ndarray, split: Split
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Score predictions.

    Args:
        true: int64 [N], classes of the split.
        guessed: int64 [N], likewise; -1 is no class, and wrong.
        split: whose K classes they are.

    Returns:
        Precision, recall and F1, fractions, and the support of each class [K], by these names. And their averages.
    """
    from sklearn.metrics import precision_recall_fscore_support  # seconds, which no --help should wait for

    settings: Any = {"labels": range(len(split.ids)), "zero_division": 0}
    score: Any = partial(precision_recall_fscore_support, true, guessed)
    there = {**settings, "labels": np.flatnonzero(split.count.numpy())}  # a class of the head alone has no share
    means = {kind: score(average=kind, **there)[:3] for kind in AVERAGES}
    averages: dict[str, dict[str, float]] = {
        kind: dict(zip(KEYS[:3], map(float, values), strict=True)) for kind, values in means.items()
    }
    return dict(zip(KEYS, (each.tolist() for each in score(**settings)), strict=True)), averages


def _calibration(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    """Return the expected calibration error, a fraction, and the mean negative log-likelihood, in nats."""
    ece = calibration.reliability(logits, labels, temperature).ece
    return {"ece": ece, "nll": calibration.negative_log_likelihood(logits, labels, temperature)}


def _diagram(logits: Tensor, labels: Tensor, temperature: float) -> np.ndarray:
    from metalab.tracking.class_figures import reliability_diagram
    from metalab.tracking.figures import pixels

    bins = calibration.reliability(logits, labels, temperature)
    at = "" if temperature == 1.0 else f", temperature {temperature:.3g}"
    title = f"expected calibration error {100 * bins.ece:.2f} %{at}"
    return pixels(reliability_diagram(bins.count, bins.confidence, bins.accuracy, title))
