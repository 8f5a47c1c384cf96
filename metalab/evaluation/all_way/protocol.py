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
    logger.info(
        f"task=all_way: {task.draws} draws of {task.shot} images of each of {len(split.ids)} classes, all others are "
        "queries; task.way, task.query and eval.episodes do not count"
    )
    others = -(-int(split.count.sum()) // len(split.ids)) - task.shot
    task = replace(task, way=len(split.ids), query=max(1, others))
    return task, replace(evaluation, episodes=task.draws, batch=1)


def refuse_all_way(why: str) -> NoReturn:
    """Raise UserError: a split cannot give all its classes at once; why: in words."""
    raise UserError(f"task=all_way has all classes of new images in one episode, and {why}: type task=fixed")


def refuse_evaluation(task: Task, data: Data, attacks: Attacks, evaluation: Eval) -> None:
    """Raise UserError for what is measured in episodes of some classes alone."""
    asked = {
        "attack": ",".join(name for name, _ in attacks.built) or None,
        "eval.unknown": evaluation.unknown,
        "eval.temperature": evaluation.temperature,
        "eval.corrupt": None if evaluation.corrupt is None else format_value(evaluation.corrupt),
        "data": "domains" if isinstance(data, Domains) else None,
    }
    for key, value in asked.items():
        if task.draws is not None and value is not None:
            raise UserError(f"{key}={value} is not measured with task=all_way: leave it out, or type task=fixed")


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
