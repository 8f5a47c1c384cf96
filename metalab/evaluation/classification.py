"""Plain classification, of data that splits its images: the classifier that mini-batches trained is measured."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from metalab.algorithms.build import AlgorithmSettings
from metalab.config.schema import Eval, Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Batch, Learner, Loss, Model, Split
from metalab.data.identity.class_ids import OWN
from metalab.data.sampling.class_order import Labels, is_among, relabelled
from metalab.evaluation.robustness import Attacks

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


def classification_protocol(task: Task, evaluation: Eval, split: Split) -> tuple[Task, Eval]:
    """Return the settings for every image of the split once, whatever was given."""
    sizes = {"unlabelled": 0, "distractors": 0, "support": None, "shots": None, "label_noise": 0.0}
    task = replace(task, way=len(split.ids), **sizes)
    return task, replace(evaluation, episodes=len(split.images), batch=IMAGES)


def facts(split: Split) -> dict[str, Any]:
    """Return what the record says in the place of an episode's size."""
    return {"way": len(split.ids), "shot": None, "query": None, "episodes": None, "images": len(split.images)}


def classifier(algo: AlgorithmSettings, split: Split, bn: str) -> Algorithm:
    """Return what predicts; UserError where the algorithm trains no classifier of all classes, or bn needs others."""
    if not algo.objective_traits.classifies:
        trains = "trains on episodes" if algo.mini_batch is None else "trains no classifier"
        raise UserError(
            "data.protocol=images has the same classes in training and test, for a plain classifier of all of them, "
            f"and algo={algo.name} {trains}: type algo=baseline, or for episodes of new classes data.protocol=classes"
            + ("" if split.ids[0].startswith(OWN) else " data.classes=[4,3,3] task.way=3")
        )
    if bn != "running":
        raise UserError(
            f"eval.bn={bn}: with data.protocol=images each image is classified alone, without a support: type "
            "eval.bn=running"
        )
    return TrainedClassifier(len(split.ids))


def as_labelled(split: Split, saved: Mapping[str, Any] | None) -> Split:
    """Return a split of some or all of a run's classes in the order of its classifier's outputs, all of which compete.

    Any other split, and where there is no run, is returned as it is.
    """
    labels = [] if saved is None else saved.get("labels", [])
    if not split.by_image or split.ids == labels or not is_among(split.ids, labels):
        return split
    if len(split.ids) < len(labels):
        logger.info(f"{len(split.ids)} of the classifier's {len(labels)} classes have images here; all compete")
    return relabelled(split, Labels(labels, (saved or {}).get("label_names") or labels))


def check_run(folder: str, algo: str, saved: Mapping[str, Any], split: Split, attacks: Attacks) -> None:
    """Raise UserError unless the run trained a classifier of the split's classes, and on none of its test images."""
    if saved.get("labels", []) != split.ids:  # runs of older versions have none
        first = split.names[0] if split.ids[0].startswith(OWN) else split.ids[0]
        raise UserError(
            f"{folder} has no classifier of {first} and the other {len(split.ids) - 1} classes, for it was not "
            "trained on them with data.protocol=images: leave out data, or type data.protocol=classes for episodes"
        )
    if algo != (own := saved["config"]["algo"]["name"]):
        raise UserError(
            f"algo={algo}: with data.protocol=images the run's own classifier is measured, that of algo={own}: leave "
            "out algo"
        )
    if attacks.built and attacks.shared.on != "query":
        raise UserError(
            f"attack.on={attacks.shared.on}: with data.protocol=images there is no support: type attack.on=query"
        )
