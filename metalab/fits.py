"""Whether the parts of a training go together: the task, the algorithm, its head and the training attack."""

import logging

from metalab.assemble import Method
from metalab.config import Train
from metalab.errors import UserError
from metalab.interfaces import Algorithm
from metalab.regularisers import Terms
from metalab.task import Task

logger = logging.getLogger("metalab")


def check_variable(task: Task, train: Train, how: Method) -> None:
    """Raise UserError for a meta-batch of several episodes, each with a way of its own."""
    if task.fixed or how.mini_batch is not None:
        return
    if (train.meta_batch or 1) > 1:
        raise UserError(
            f"train.meta_batch={train.meta_batch}: task=variable has one episode a meta-step; type train.meta_batch=1"
        )
    if how.meta_batch > 1:
        logger.info(f"algo.meta_batch={how.meta_batch}: with task=variable a meta-step is one episode")


def check_head(terms: Terms, algorithm: Algorithm) -> None:
    """Raise UserError where a training attack would climb the loss of a zero head."""
    if terms.first and vars(algorithm).get("head_init") == "zero":
        raise UserError(
            "algo.head_init=zero and an attack on the support in training: under a zero head no image has a gradient, "
            "so the attack would do nothing; type another algo.head_init, or the attack's on=query"
        )


def tell_unlabelled(task: Task, name: str, algorithm: Algorithm) -> None:
    """Say where unlabelled images are drawn and not read, or would be read and are not drawn."""
    reads = vars(algorithm).get("refine") or vars(algorithm).get("pseudo")
    if task.unlabelled and not reads:
        logger.info(f"task.unlabelled={task.unlabelled}: algo={name} does not read unlabelled images as it is set")
    if vars(algorithm).get("pseudo") and not task.unlabelled:
        logger.info("algo.pseudo does nothing without unlabelled images; task.unlabelled=5 draws 5 a class")
