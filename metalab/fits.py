"""Whether the parts of a training go together: the task, the algorithm, its head and the training attack."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from omegaconf import DictConfig
from torch import nn

from metalab.assemble import Method
from metalab.config import Train
from metalab.engines.auto import Auto
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorised import Vectorised
from metalab.errors import UserError
from metalab.interfaces import Algorithm, Engine
from metalab.models.backbones import DropBlock
from metalab.regularisation import solves
from metalab.regularisers import Terms
from metalab.task import Task

logger = logging.getLogger("metalab")
# inner steps through the body: in bfloat16 their meta-gradients are others (tests/engines/test_precision.py)
COARSE = ("boil", "fomaml", "imaml", "maml", "mamlpp", "metacurvature", "metasgd", "reptile")
ON_THE_HOST = ("metaoptnet",)  # a meta-step of theirs leaves the device
SHARES = {nn.Dropout: "p", DropBlock: "rate"}  # what drops at random, and the name of the share that it drops


def refuse_evaluations(cfg: DictConfig) -> None:
    """Raise UserError for what metalab eval alone reads; a run of an older version may be resumed with it."""
    if cfg.resume is not None:
        return
    chosen = [name for name, part in cfg.attack.items() if isinstance(part, Mapping)]
    if chosen:
        raise UserError(
            f"attack=[{','.join(map(str, chosen))}]: attacks are for metalab eval run=... attack=...; to train on "
            "attacked images type reg=adv_pgd or reg=adv_fgsm"
        )
    if cfg.get("run") is not None:
        raise UserError(
            f"run={cfg.run}: a run is evaluated by metalab eval; to go on with it type resume=RUN, to start a new one "
            "from its weights train.init=RUN"
        )


def check_together(task: Task, train: Train, how: Method, terms: Terms, algorithm: Algorithm) -> None:
    """Raise UserError where these parts do not go together; say what of them would be drawn in vain."""
    check_variable(task, train, how)
    check_head(terms, algorithm)
    tell_unlabelled(task, how.name, algorithm)


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
    """Raise UserError where a training attack would climb the loss of a head that tells it nothing."""
    start = vars(algorithm).get("head_init")
    why = {
        "zero": "under a zero head no image has a gradient, so the attack would do nothing",
        "random": "the head is drawn anew for the attack and for the adaptation, so it would climb another net's loss",
    }
    if terms.first and start in why:
        raise UserError(
            f"algo.head_init={start} and an attack on the support in training: {why[start]}; type another "
            "algo.head_init, or the attack's on=query"
        )


def takes_graphs(engine: Engine | Auto, where: torch.device, task: Task, how: Method) -> bool:
    """Return whether meta-steps are to be CUDA graphs; UserError where engine.graphs=true and they cannot be."""
    if not isinstance(engine, Auto | Vectorised) or engine.graphs is False:
        return False
    if engine.graphs is None:
        return where.type == "cuda" and how.name not in ON_THE_HOST and (task.fixed or how.mini_batch is not None)
    if where.type != "cuda":
        raise UserError(
            f"engine.graphs=true needs a CUDA device, this is {where.type}: type engine.graphs=false, or device=cuda"
        )
    if how.name in ON_THE_HOST:
        raise UserError(
            f"engine.graphs=true: algo={how.name} solves on the processor within a meta-step, which no CUDA graph can "
            "hold; type engine.graphs=false"
        )
    if not task.fixed and how.mini_batch is None:
        raise UserError(
            "engine.graphs=true: a graph has one shape, and with task=variable each episode has its own; type "
            "engine.graphs=false"
        )
    return True


def check_precision(engine: Engine | Auto, how: Method) -> None:
    """Raise UserError for bfloat16 where inner steps go through the body: it has too few digits for them."""
    if isinstance(engine, Auto | Learn2Learn | Vectorised) and engine.precision == "bf16" and how.name in COARSE:
        raise UserError(
            f"engine.precision=bf16: algo={how.name} takes inner steps through the body, and in bfloat16 its "
            "meta-gradients point elsewhere (docs/performance.md); type engine.precision=tf32 or float32"
        )


def check_drops(net: nn.Module, how: Method) -> None:
    """Raise UserError where the net drops at random and the algorithm needs it to be the same at each look."""
    drops = [n for n, m in net.named_modules() if type(m) in SHARES and vars(m)[SHARES[type(m)]] > 0]
    if drops and solves(how):
        raise UserError(
            f"algo={how.name} solves equations with the Hessian of the inner problem, and dropout in the net "
            f"({drops[0]}) makes it another at each look: leave dropout and dropblock out of reg, and type "
            "backbone.dropout=0 backbone.dropblock=0 where the backbone has them"
        )


def tell_unlabelled(task: Task, name: str, algorithm: Algorithm) -> None:
    """Say where unlabelled images are drawn and not read, or would be read and are not drawn."""
    reads = vars(algorithm).get("refine") or vars(algorithm).get("pseudo")
    if task.unlabelled and not reads:
        logger.info(f"task.unlabelled={task.unlabelled}: algo={name} does not read unlabelled images as it is set")
    if vars(algorithm).get("pseudo") and not task.unlabelled:
        logger.info("algo.pseudo does nothing without unlabelled images; task.unlabelled=5 draws 5 a class")


@contextmanager
def differentiated() -> Iterator[None]:
    """Say what to type where torch has no second derivative of an operation in the backbone."""
    try:
        yield
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        raise UserError(
            f"{str(error).splitlines()[0]}: the backbone cannot be differentiated twice. Type algo.first_order=true "
            "where the algorithm has it, or another backbone"
        ) from error
