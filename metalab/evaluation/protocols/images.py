"""Plain classification, of data that splits its images: the classifier that mini-batches trained is measured."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from metalab.algorithms.build import AlgorithmSettings
from metalab.config.schema import Eval, Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Batch, Engine, Learner, Loss, Model, Split
from metalab.core.statistics import mean_ci95
from metalab.data.identity.class_ids import OWN, fingerprint, seen_classes, seen_images
from metalab.data.sampling.build import Source
from metalab.data.sampling.class_order import Labels, is_among, relabelled
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.data.sampling.sequential import SequentialImages
from metalab.engines.per_image import PerImageEngine
from metalab.evaluation.classifier_report import classifier_report
from metalab.evaluation.robustness import Attacks
from metalab.tracking.class_report import ClassReport

logger = logging.getLogger("metalab")
IMAGES = 100  # that run together
NOTE = "each image once, by the net's own classifier: no episode and no support were involved"


@dataclass(frozen=True)
class TrainedClassifier:
    """Predict with the net as it is, body and head: no support, no inner step."""

    way: int

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        yield learner


@final
@dataclass(frozen=True)
class ImageProtocol:
    """Each image once, by the net's own classifier of the classes that it was trained on."""

    unit: str = "images"
    has_support: bool = False
    needs_logits: bool = True

    def as_labelled(self, split: Split, saved: Mapping[str, Any] | None) -> Split:
        """Return a split of some or all of a run's classes in the order of its outputs, all of which compete."""
        labels = [] if saved is None else saved.get("labels", [])
        if split.ids == labels or not is_among(split.ids, labels):
            return split
        if len(split.ids) < len(labels):
            logger.info(f"{len(split.ids)} of the classifier's {len(labels)} classes have images here; all compete")
        return relabelled(split, Labels(labels, (saved or {}).get("label_names") or labels))

    def sized(self, task: Task, evaluation: Eval, split: Split) -> tuple[Task, Eval]:
        """Return the settings for every image of the split once, whatever was given."""
        logger.info(
            f"the data splits images: all {len(split.images)} count once; task.* and eval.episodes do not count"
        )
        sizes = {"unlabelled": 0, "distractors": 0, "support": None, "shots": None, "label_noise": 0.0}
        task = replace(task, way=len(split.ids), **sizes)
        return task, replace(evaluation, episodes=len(split.images), batch=IMAGES)

    def refuse_untrained(self, split: Split) -> None:
        """Raise UserError: without a training nothing knows the classes."""
        raise UserError(
            f"run=null: data.protocol=images measures the classifier that a run trained for {split.ids[0]} and the "
            "others, and there is no run: type task=all_way task.shot=16 for supports of the training images, "
            "data.protocol=classes for episodes, or train one with algo=baseline"
        )

    def check_run(self, run: Path | None, algo: str, saved: Mapping[str, Any], split: Split, attacks: Attacks) -> None:
        """Raise UserError unless the run trained a classifier of the split's classes, and it is that which is asked."""
        if saved.get("labels", []) != split.ids:  # runs of older versions have none
            first = split.names[0] if split.ids[0].startswith(OWN) else split.ids[0]
            raise UserError(
                f"{run} has no classifier of {first} and the other {len(split.ids) - 1} classes, for it was not "
                "trained on them with data.protocol=images: leave out data, or type data.protocol=classes for episodes"
            )
        if algo != (own := saved["config"]["algo"]["name"]):
            raise UserError(
                f"algo={algo}: with data.protocol=images the run's own classifier is measured, that of algo={own}: "
                "leave out algo"
            )
        if attacks.built and attacks.shared.on != "query":
            raise UserError(
                f"attack.on={attacks.shared.on}: with data.protocol=images there is no support: type attack.on=query"
            )

    def algorithm(self, algorithm: Algorithm, algo: AlgorithmSettings, split: Split, bn: str) -> Algorithm:
        """Return the classifier; UserError where the algorithm trains none of all classes, or bn needs others."""
        if not algo.objective_traits.classifies:
            trains = "trains on episodes" if algo.mini_batch is None else "trains no classifier"
            raise UserError(
                "data.protocol=images has the same classes in training and test, for a plain classifier of all of "
                f"them, and algo={algo.name} {trains}: type algo=baseline, or for episodes of new classes "
                "data.protocol=classes" + ("" if split.ids[0].startswith(OWN) else " data.classes=[4,3,3] task.way=3")
            )
        if bn != "running":
            raise UserError(
                f"eval.bn={bn}: with data.protocol=images each image is classified alone, without a support: type "
                "eval.bn=running"
            )
        return TrainedClassifier(len(split.ids))

    def engine(self, engine: Engine) -> Engine:
        return PerImageEngine(engine)

    def count(self, evaluation: Eval, split: Split) -> int:
        return len(split.images)

    def images_of(self, task: Task) -> int:
        return 1

    def seen(self, split: Split, trained: list[str], part: str) -> tuple[list[str], str]:
        """Return the images that were trained on; of the training split, which is asked about as such, its classes."""
        if part == "train":
            return seen_classes(split, trained), f"{len(set(split.ids))} classes"
        known = seen_images(split, trained)
        return [file for file, seen in zip(split.files, known, strict=False) if seen], f"{len(split.images)} images"

    def refuse_other_validation(self, split: Split, saved: Mapping[str, Any], what: str, instead: str) -> None:
        """Raise UserError for other images than the run's: it may have been trained on these."""
        if fingerprint(split) != saved["data"]["val"]:
            raise UserError(
                f"{what} was validated on other images than these, and may have trained on them: give the data of the "
                f"training, or {instead}"
            )

    def query_labels(self, draw: EpisodeIndices, task: Task, queries: int) -> Tensor:
        return draw.label.reshape(-1, queries)

    def judged(self, logits: Tensor) -> Tensor:
        return logits

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
        return classifier_report(*logits_and_labels(judged, source), split, temperature, pictures)

    def facts(self, split: Split) -> dict[str, Any]:
        return {"way": len(split.ids), "shot": None, "query": None, "episodes": None, "images": len(split.images)}

    def sizes(self, task: Task) -> dict[str, Any]:
        return {}

    def notes(self, part: str) -> set[str]:
        return {NOTE}

    def accuracy_record(self, accuracy: np.ndarray, split: Split, source: Source) -> dict[str, Any]:
        """Return the accuracy with its interval, and that of each class."""
        mean, ci95 = mean_ci95(accuracy)
        labels, step = np.empty(0, dtype=np.int64), 0
        while len(labels) < len(accuracy):
            labels, step = np.concatenate([labels, source.indices(step).label.flatten().numpy()]), step + 1
        right = np.bincount(labels, accuracy, minlength=len(split.ids)).tolist()
        classes = {
            name: n / count for name, n, count in zip(split.names, right, split.count.tolist(), strict=True) if count
        }
        return {"accuracy": mean, "ci95": ci95, "images": len(accuracy), "classes": classes}


def logits_and_labels(parts: list[Tensor], source: SequentialImages | Source) -> tuple[Tensor, Tensor]:
    """Return the logits [N,K] of all mini-batches of a source, each [n,1,K], and the labels [N], on the processor."""
    labels = torch.cat([source.indices(step).label.flatten() for step in range(len(parts))])
    logits = torch.cat([part.flatten(0, 1) for part in parts]).cpu()
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), labels
