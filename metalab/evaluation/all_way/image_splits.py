"""Where the data splits images: all classes are told apart by training images, or by those of the other folds."""

from dataclasses import replace

from metalab.config.schema import Eval, Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Data, Split
from metalab.core.text import first_names
from metalab.data.datasets.folder import Folder
from metalab.data.sampling.class_order import Labels, relabelled

INSTEAD = "type data=folder data.root=/path/to/images data.protocol=images, or leave it out"
SHARED = "the folds share images, so the intervals are approximate"


def with_training_support(split: Split, data: Data, task: Task, evaluation: Eval) -> Split:
    """Return the split with supports of the training images, under its own classes; as it is where it splits classes.

    Zhou, Yang, Loy, Liu 2022 (CoOp, sec. 4.1): labelled images are training images, and all test images are asked.

    Args:
        split: what is asked.
        data: whose it is.
        task: all classes at once, or it stays as it is.
        evaluation: which split it is.

    Raises:
        UserError: for eval.split=train, and for a class without a training image.
    """
    if task.draws is None or not split.by_image:
        return split
    if evaluation.split == "train":
        raise UserError(
            "eval.split=train with task=all_way data.protocol=images: supports are of the training images, and would "
            "be asked again: type eval.split=test"
        )
    training = data.load("train")
    differs = [*_only(training, split.ids), *_only(split, training.ids)]
    if differs:
        raise UserError(
            f"task=all_way data.protocol=images: {len(differs)} classes have no training image, or no image of the "
            f"{evaluation.split} split: {first_names(differs)}"
        )
    training = replace(relabelled(training, Labels(split.ids, split.names)), by_image=False)
    counts = training.count.tolist()
    few = [f"{name} ({n})" for name, n in zip(split.names, counts, strict=True) if n < task.shot]
    known = dict.fromkeys([*split.note.split("; "), *training.note.split("; ")])
    said = [*known, f"supports of the {len(training.images)} training images"]
    said += [f"{len(few)} classes have fewer than {task.shot} training images: {first_names(few)}"] if few else []
    said += ["all draws have the same support, all training images"] if max(counts) <= task.shot else []
    return replace(split, support=training, by_image=False, note="; ".join(filter(None, said)))


def _only(split: Split, ids: list[str]) -> list[str]:
    """Return the names of the split's classes that are not among the ids."""
    return [name for name, own in zip(split.names, split.ids, strict=True) if own not in set(ids)]


def in_folds(data: Data, folds: int, task: Task, evaluation: Eval) -> Split:
    """Return all images of a folder, with the fold of each (Split.fold).

    Args:
        data: of which the folds are.
        folds: how many, eval.folds.
        task: of which nothing is to ask for episodes of some classes.
        evaluation: the other settings.

    Raises:
        UserError: for data without folds, or with folds of its own.
    """
    if (asked := task.beside_fixed) is not None:
        raise UserError(f"{asked[0]} is of episodes, and eval.folds={folds} has none: type {asked[1]}, or task=fixed")
    if not isinstance(data, Folder) or data.protocol != "images":
        raise UserError(f"eval.folds={folds}: folds are of the images of your own folder, each tested once; {INSTEAD}")
    if data.folds is not None:
        raise UserError(f"eval.folds={folds} with data.folds={data.folds}: both deal the images out; leave one out")
    if evaluation.split != "test":
        raise UserError(f"eval.split={evaluation.split}: eval.folds tests each image once; leave out eval.split")
    split = data.in_folds(folds)
    return replace(split, by_image=False, note="; ".join(filter(None, [split.note, SHARED])))
