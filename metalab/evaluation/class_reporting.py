"""Watch an evaluation's clean measurement, and report on its classes when it is over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.core.interfaces import Objective, Split, TaskResult
from metalab.data.sampling.build import Source
from metalab.data.sampling.sequential import SequentialImages
from metalab.data.storage.resize import resize_split
from metalab.evaluation.calibration import fit_temperature
from metalab.evaluation.measure import outcomes
from metalab.evaluation.protocols.images import logits_and_labels
from metalab.evaluation.query_predictions import Kept, WithPredictions
from metalab.evaluation.setup import EvaluationSetup
from metalab.tracking.class_report import ClassReport


@dataclass
class ClassReporting:
    """Say which classes are hard, what they are taken for, and how calibrated a classifier is.

    Nothing is done where eval.report=false. UserError for an eval.temperature that cannot be had, before any work.
    """

    setup: EvaluationSetup
    kept: Kept = field(init=False)
    validation: Split | None = field(init=False, default=None)  # what a temperature is fitted on

    def __post_init__(self) -> None:
        self.kept = Kept("logits" if self.setup.protocol.needs_logits else "predicted")
        given = self.setup.evaluation.temperature
        if given is None:
            return
        if self.setup.protocol.has_support:
            raise UserError(
                f"eval.temperature={given} scales the confidence of a plain classifier, as data.protocol=images "
                "measures it, and these are episodes: type eval.temperature=null"
            )
        if not self.on:
            raise UserError(f"eval.temperature={given} with eval.report=false: nothing would tell what it does")
        if given == "fit":
            self.validation = _validation(self.setup)

    @property
    def on(self) -> bool:
        """Whether there is a report."""
        return self.setup.evaluation.report

    def objective(self, measured: Any) -> Objective:
        """Return a measured objective that shows its predictions, too."""
        return WithPredictions(measured, self.setup.protocol.needs_logits) if self.on else measured

    def watch(self, results: Iterable[TaskResult]) -> Iterator[TaskResult]:
        """Give the results of that objective as they come."""
        return self.kept.watch(results) if self.on else iter(results)

    def report(
        self, objective: Objective, source: Source, accuracy: np.ndarray, pictures: bool
    ) -> tuple[dict[str, Any], ClassReport | None]:
        """Return what belongs into eval.json, and what is written beside it; nothing where there is no report.

        Args:
            objective: the measured one.
            source: what was measured on.
            accuracy: float64 [E], of each episode.
            pictures: whether there are pictures, which keep the source until they are drawn.
        """
        t, parts = self.setup, self.kept.parts
        if not self.on:
            return {}, None
        temperature = None if t.evaluation.temperature == "fit" else t.evaluation.temperature
        if self.validation is not None:
            temperature = fit_temperature(*self._validated(objective, self.validation))
        seen = t.image_source(t.task) if pictures and t.images is not t.split else source
        return t.protocol.report(t.split, t.task, seen, parts, accuracy, temperature, pictures)

    def _validated(self, objective: Objective, split: Split) -> tuple[Tensor, Tensor]:
        """Return the logits [N,K] and the labels [N] of all images of a split."""
        t = self.setup
        source, kept = SequentialImages(split, t.tasks, next(t.net.parameters()).device), Kept("logits")
        for _ in kept.watch(outcomes(t.counting, objective, t.net, source, len(split.images), t.bn)):
            pass
        return logits_and_labels(kept.parts, source)


def _validation(t: EvaluationSetup) -> Split:
    """Return the images that the run was validated on, as its net takes them; UserError where they are others now."""
    split = build(t.config.data, "data").load("val")
    what = f"eval.temperature=fit: {t.folder}"
    t.protocol.refuse_other_validation(split, t.saved, what, "type a number: eval.temperature=1.5")
    if t.evaluation.split == "val":
        raise UserError(
            "eval.temperature=fit fits it on the validation images, and eval.split=val would measure it on the same: "
            "type eval.split=test"
        )
    channels, size, _ = t.saved["shape"]
    return resize_split(split, channels, size)
