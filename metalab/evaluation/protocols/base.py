"""What an evaluation asks of the way in which its split is measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from metalab.algorithms.build import AlgorithmSettings
from metalab.config.schema import Eval, Task
from metalab.core.interfaces import Algorithm, Engine, Split
from metalab.data.sampling.build import Source
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.evaluation.robustness import Attacks
from metalab.tracking.class_report import ClassReport


class EvaluationProtocol(Protocol):
    """One of two: EpisodeProtocol (data.protocol=classes) and ImageProtocol (data.protocol=images)."""

    @property
    def unit(self) -> str:
        """What is counted, and what the interval of the accuracy is over: `episodes` or `images`."""
        ...

    @property
    def has_support(self) -> bool:
        """Whether the net adapts to a support before it is asked."""
        ...

    @property
    def needs_logits(self) -> bool:
        """Whether the report needs the logits of each query, and not its predicted class alone."""
        ...

    def as_labelled(self, split: Split, saved: Mapping[str, Any] | None) -> Split:
        """Return the split with its classes in the order in which a run's net knows them.

        saved: the run's checkpoint; None: there is no run.
        """
        ...

    def sized(self, task: Task, evaluation: Eval, split: Split) -> tuple[Task, Eval]:
        """Return the settings with the sizes that the split itself fixes; where it fixes none, as they are.

        Raises:
            UserError: where the task asks for episodes that the split cannot give.
        """
        ...

    def refuse_untrained(self, split: Split) -> None:
        """Raise UserError where nothing without a training could tell the split's classes apart."""
        ...

    def check_run(self, run: Path | None, algo: str, saved: Mapping[str, Any], split: Split, attacks: Attacks) -> None:
        """Raise UserError where the run's checkpoint, the algorithm asked for or the attacks do not fit the split."""
        ...

    def algorithm(self, algorithm: Algorithm, algo: AlgorithmSettings, split: Split, bn: str) -> Algorithm:
        """Return what predicts.

        Args:
            algorithm: that of the test.
            algo: its settings.
            split: whose classes are told apart.
            bn: the batch-norm statistics of the evaluation.

        Raises:
            UserError: where the algorithm or the statistics cannot tell the split's classes apart.
        """
        ...

    def engine(self, engine: Engine) -> Engine:
        """Return the engine that gives a loss and a correctness for each unit."""
        ...

    def count(self, evaluation: Eval, split: Split) -> int:
        """Return how many units of a split, one of the same kind, are measured."""
        ...

    def images_of(self, task: Task) -> int:
        """Return how many images of a unit pass through the net."""
        ...

    def seen(self, split: Split, trained: list[str], part: str) -> tuple[list[str], str]:
        """Return what of a split was trained on, and in words of how many what.

        Args:
            split: the tested one.
            trained: ids of the classes and the images that were trained on.
            part: train, val or test.
        """
        ...

    def refuse_other_validation(self, split: Split, saved: Mapping[str, Any], what: str, instead: str) -> None:
        """Raise UserError where a validation split is not apart from what the run was trained on.

        Args:
            split: the validation images as they are now.
            saved: the run's checkpoint.
            what: asks for it, and of which run, "eval.temperature=fit: outputs/train/x".
            instead: what may be typed in its place.
        """
        ...

    def query_labels(self, draw: EpisodeIndices, task: Task, queries: int) -> Tensor:
        """Return int64 [T,queries], the labels of what a meta-batch with these indices asks."""
        ...

    def judged(self, logits: Tensor) -> Tensor:
        """Return what the report needs of the logits [T,N,K] of a meta-batch's queries."""
        ...

    def report(
        self,
        split: Split,
        task: Task,
        source: Source,
        judged: list[Tensor],
        accuracy: np.ndarray,
        temperature: float | None,
        pictures: bool,
    ) -> tuple[dict[str, Any], ClassReport]:
        """Report on the split's classes.

        Args:
            split: whose classes they are.
            task: the size of the episodes.
            source: of what was measured, with images where there are pictures.
            judged: of each meta-batch, as self.judged returns it.
            accuracy: float64 [E], of each unit.
            temperature: divides the logits for a second look at the calibration of a classifier; None: there is none.
            pictures: whether there are pictures, which keep the source until they are drawn.

        Returns:
            What belongs into eval.json. And what is written beside it.
        """
        ...

    def facts(self, split: Split) -> dict[str, Any]:
        """Return what the record says in the place of an episode's size; nothing where it has that size."""
        ...

    def sizes(self, task: Task) -> dict[str, Any]:
        """Return what is to be the same where two runs are compared."""
        ...

    def notes(self, part: str) -> set[str]:
        """Return what a referee must know of a measurement of this kind.

        part: train, val or test.
        """
        ...

    def accuracy_record(self, accuracy: np.ndarray, split: Split, source: Source) -> dict[str, Any]:
        """Return the mean of an accuracy [E] with its interval and its units, and what more a domain's record has."""
        ...
