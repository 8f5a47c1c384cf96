"""What to expect: how well a support's classifier does on new images of its classes, from the support alone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import correct
from metalab.evaluation.calibration import fit_temperature
from metalab.serving.classifier import Adaptation

FOLDS = 10  # the most that a support is split into


@dataclass(frozen=True)
class LeftOut:
    """The support's images, each classified by the others: those of classes with two images or more.

    The classifiers are made of fewer images than the one that is used, so they are a little worse than it.
    """

    logits: Tensor  # float64 [M,K]
    labels: Tensor  # int64 [M]
    shot: tuple[int, int]  # the fewest and the most images a class, of those with two or more, that they are made of
    alone: int  # classes with one image, of which none can be left out
    kept: float  # share of a class's images that they are made of, the mean over these classes

    @property
    def right(self) -> Tensor:
        """Which images are classified rightly, bool [M]."""
        return correct(self.logits, self.labels)


@dataclass(frozen=True)
class Expectation:
    """The share of new images of the support's classes that will be classified rightly, about."""

    accuracy: float
    low: float  # of its 95 % interval
    high: float
    images: int  # that were left out and classified
    shot: tuple[int, int]  # see LeftOut

    @property
    def words(self) -> str:
        """Say it as a person reads it."""
        least, most = self.shot
        shots = f"{least}" if least == most else f"{least} to {most}"
        return (
            f"{100 * self.accuracy:.0f} % of new images of these classes (95 %: {100 * self.low:.0f} to "
            f"{100 * self.high:.0f} %), from {self.images} support images, each left out once, by the others: "
            f"{shots} images a class"
        )


def leave_out(adaptation: Adaptation, inputs: Tensor, labels: Tensor, names: list[str]) -> LeftOut | None:
    """Classify each image of a support by the others.

    Image i of a class is left out in fold i modulo the number of folds, so that a support with k images a class, up to
    10, is split into k folds, each of one image a class: episodes of k - 1 shots. A class with one image keeps it.

    Args:
        adaptation: how a support becomes a classifier.
        inputs: of the support, as its embed returns them, [N,...].
        labels: int64 [N].
        names: of the classes.

    Returns:
        What was found; None where no class has two images.
    """
    count = torch.bincount(labels, minlength=len(names))
    folds = min(FOLDS, int(count.max()))
    if folds < 2:
        return None
    place = torch.cat([torch.arange(int(n)) for n in count])[torch.argsort(torch.argsort(labels, stable=True))]
    fold = torch.where(count[labels] > 1, place % folds, folds)
    logits = torch.zeros(len(labels), len(names), dtype=torch.float64)
    for i in range(folds):
        out = fold == i
        here = out.to(inputs.device)
        logits[out] = adaptation.adapt(inputs[~here], labels[~out], names).of_inputs(inputs[here])
    used = fold < folds
    several = count[count > 1]
    shots = several - (several + folds - 1) // folds
    kept = float((shots / several).mean())
    return LeftOut(logits[used], labels[used], (int(shots.min()), int(shots.max())), int((count == 1).sum()), kept)


def expectation(left_out: LeftOut) -> Expectation:
    """Return the accuracy to expect, and a 95 % interval for that of the classifier of the whole support.

    It is Wilson's (1927) for the left-out images, but that its upper end takes account of what the images that were
    left out would have added: what a class's images leave of error in its estimate falls as 1 / k with their number k,
    so that the whole error falls to (k - 1) / k of that of k - 1 at most.
    """
    from scipy.stats import binomtest

    right, images = int(left_out.right.sum()), len(left_out.right)
    interval: Any = binomtest(right, images).proportion_ci(0.95, method="wilson")
    high = 1 - (1 - float(interval.high)) * left_out.kept
    return Expectation(right / images, float(interval.low), high, images, left_out.shot)


def support_temperature(left_out: LeftOut) -> float:
    """Return the temperature under which the left-out images' labels are likeliest.

    As few images may all be right, and would then ask for a temperature of 0, the labels are smoothed as Platt does
    (1999, sec. 2.2): the right class has (M + 1) / (M + K), the others share the rest.
    """
    images, way = left_out.logits.shape
    wanted = torch.full((images, way), 1 / (images + way), dtype=torch.float64)
    wanted[torch.arange(images), left_out.labels] = (images + 1) / (images + way)
    return fit_temperature(left_out.logits, wanted)
