"""The test of all classes of a split at once: its sizes, what it refuses, and its engine."""

import logging
from dataclasses import replace
from typing import NoReturn

from metalab.config.schema import Eval, Task
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.core.interfaces import Data, Engine, Split
from metalab.data.datasets.domains import Domains
from metalab.engines.auto import AutoEngine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.evaluation.robustness import Attacks

logger = logging.getLogger("metalab")


def all_way_protocol(task: Task, evaluation: Eval, split: Split) -> tuple[Task, Eval]:
    """Return the settings with the sizes of the split: one episode a draw, of all its classes.

    Raises:
        UserError: for a split whose classes or images do not all meet in an episode.
    """
    refused = {
        "the data gives its episodes": split.fixed is not None,
        "the data says which classes may meet in an episode": split.families is not None,
        "data.group says which images may meet in an episode": split.group is not None,
    }
    if why := [words for words, true in refused.items() if true]:
        refuse_all_way(why[0])
    assert task.draws is not None
    classes, images, known = len(split.ids), int(split.count.sum()), task.shot
    if split.fold is not None:
        known = max(1, images // classes - images // (classes * task.draws))  # about as many, for what estimates times
        of = f"eval.folds={task.draws}: each of {images} images once, by the other folds' of all {classes} classes"
    elif split.support is not None:
        of = f"task=all_way: {task.draws} draws of {task.shot} training images of each of {classes} classes, all "
        of += f"{images} images are queries"
    else:
        of = f"task=all_way: {task.draws} draws of {task.shot} images of each of {classes} classes, all others are "
        of += "queries"
    logger.info(f"{of}; task.way, task.query and eval.episodes do not count")
    own = split.fold is None and split.support is None
    others = -(-images // classes) - (task.shot if own else 0)
    task = replace(task, way=classes, shot=known, query=max(1, others))
    return task, replace(evaluation, episodes=task.draws, batch=1)


def refuse_all_way(why: str) -> NoReturn:
    """Raise UserError: a split cannot give all its classes at once; why: in words."""
    raise UserError(f"task=all_way has all classes of new images in one episode, and {why}: type task=fixed")


def refuse_evaluation(task: Task, data: Data, attacks: Attacks, evaluation: Eval) -> None:
    """Raise UserError for what is measured in episodes of some classes alone."""
    what = "task=all_way" if evaluation.folds is None else f"eval.folds={evaluation.folds}"
    instead = "task=fixed" if evaluation.folds is None else "eval.folds=null"
    asked = {
        "attack": ",".join(name for name, _ in attacks.built) or None,
        "eval.unknown": evaluation.unknown,
        "eval.temperature": evaluation.temperature,
        "eval.corrupt": None if evaluation.corrupt is None else format_value(evaluation.corrupt),
        "data": "domains" if isinstance(data, Domains) else None,
    }
    for key, value in asked.items():
        if task.draws is not None and value is not None:
            raise UserError(f"{key}={value} is not measured with {what}: leave it out, or type {instead}")


def refuse_comparison(task: Task) -> None:
    """Raise UserError for metalab compare, whose pictures and tests are of episodes."""
    if task.draws is not None:
        raise UserError(
            "metalab compare compares runs on episodes, and task=all_way has one a draw: type task=fixed, or metalab "
            "eval run=[A,B] task=all_way"
        )


def one_by_one(engine: Engine) -> Engine:
    """Return the engine that adapts to one draw at a time, whose objective may read its queries in chunks."""
    return Learn2Learn(engine.precision if isinstance(engine, AutoEngine | Vectorized | Learn2Learn) else "float32")
