"""The sizes of the task that is trained on: the user's, the algorithm's recommendation, or those of the test."""

import logging
from dataclasses import replace

from metalab.algorithms.build import AlgorithmSettings
from metalab.config.schema import Task, wrong_labels
from metalab.core.errors import UserError

logger = logging.getLogger("metalab")


def resolve_training_task(task: Task, algo: AlgorithmSettings, classes: int, images: int) -> Task:
    """Fill in the training sizes: the user's, else what the algorithm recommends, else those of the test.

    A recommendation that the data cannot give (classes, images of the smallest class) is cut and said; what the user
    asks for is not: the sampler refuses it.
    """
    if not task.fixed:  # the same distribution in training as in the test
        return replace(task, train_way=task.way, train_shot=task.shot, train_query=task.query)
    shot, query = task.train_shot or task.shot, task.train_query or task.query
    if task.train_shot is None and algo.train_shot is not None:
        least = (task.train_query or 1) if algo.train_query else query
        shot = _at_most("train_shot", algo.train_shot, max(images - least, 1), f"{images} images of the smallest class")
    if task.train_query is None and algo.train_query is not None:
        left = max(images - shot, 1)
        query = _at_most(
            "train_query", algo.train_query, left, f"{images} images of the smallest class less {shot} shot"
        )
    way = task.train_way or task.way
    if task.train_way is None and algo.train_way is not None:
        way = _at_most("train_way", algo.train_way, classes, f"{classes} training classes")
    wrong_labels(shot, task.train_label_noise, "train_label_noise", "train_shot")
    return replace(task, train_way=way, train_shot=shot, train_query=query)


def mini_batch_task(task: Task, name: str, classes: int) -> Task:
    """Return the task whose training way is all training classes; UserError where the user asks for episodes."""
    for key in ("train_way", "train_shot", "train_query"):
        value = {"train_way": task.train_way, "train_shot": task.train_shot, "train_query": task.train_query}[key]
        if value is not None:
            raise UserError(
                f"task.{key}={value}: algo={name} trains on mini-batches of all {classes} training classes, not on "
                f"episodes; type task.{key}=null and, for their size, algo.mini_batch"
            )
    if task.train_label_noise:
        raise UserError(
            f"task.train_label_noise={task.train_label_noise:g}: algo={name} trains on mini-batches, which have no "
            "support; type task.train_label_noise=0"
        )
    return replace(task, train_way=classes)


def describe_task(task: Task, mini_batch: int | None, images: int | None) -> str:
    """Say what is trained on and tested on; images: of a validation that has no episodes."""
    sizes = f"{task.train_way}-way {task.train_shot}-shot with {task.train_query} queries"
    sizes += _noise(task.train_label_noise)
    if mini_batch is not None:
        sizes = f"on mini-batches of {mini_batch} images of all its classes"
    if images is not None:
        return f"trains {sizes}, tests on all {images} validation images"
    if not task.fixed:
        most = f"up to {task.way}-way and {task.support} labelled images"
        return f"way and shots drawn anew, {most}, with at most {task.query} queries"
    return f"trains {sizes}, tests {task.way}-way {task.shot_words}-shot with {task.query}{_noise(task.label_noise)}"


def _noise(share: float) -> str:
    return f" and {share:.0%} wrong labels in the support" if share else ""


def _at_most(key: str, recommended: int, most: int, what: str) -> int:
    if recommended > most:
        logger.info(f"algo.{key}={recommended} is more than the {what}: {most} is used")
    return min(recommended, most)
