"""Whether the parts of a training go together: the task, the algorithm, its head and the training attack."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from metalab.algorithms.build import AlgorithmSettings
from metalab.config.experiment import ExperimentConfig
from metalab.config.schema import Task, Train
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Backbone, Engine, PretrainedBackbone, Split, algorithm_traits
from metalab.engines.auto import AutoEngine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import DropBlock
from metalab.regularizers import Hooks

logger = logging.getLogger("metalab")
SHARES = {nn.Dropout: "p", DropBlock: "rate"}  # what drops at random, and the name of the share that it drops


def refuse_evaluations(config: ExperimentConfig) -> None:
    """Raise UserError for what metalab eval alone reads; a run of an older version may be resumed with it."""
    if config.resume is not None:
        return
    chosen = [name for name, part in config.attack.items() if isinstance(part, Mapping)]
    if chosen:
        raise UserError(
            f"attack=[{','.join(map(str, chosen))}]: attacks are for metalab eval run=... attack=...; to train on "
            "attacked images type reg=adv_pgd or reg=adv_fgsm"
        )
    if config.task.draws is not None:
        raise UserError(
            f"task=all_way (task.draws={config.task.draws}) is for metalab eval run=RUN task=all_way: train with "
            "task=fixed"
        )
    asked = {"bn": config.eval.bn if config.eval.bn == "target" else None}
    asked |= {"tent": config.eval.tent, "baseline": config.eval.baseline}
    asked["corrupt"] = None if config.eval.corrupt is None else format_value(config.eval.corrupt)
    for key, value in asked.items():
        if value is not None:
            raise UserError(
                f"eval.{key}={value} is for metalab eval run=... eval.{key}={value}: leave it out of training"
            )
    if config.run is not None:
        raise UserError(
            f"run={config.run}: a run is evaluated by metalab eval; to go on with it type resume=RUN, to start a new "
            "one from its weights train.init=RUN"
        )


def check_compatibility(task: Task, train: Train, algo: AlgorithmSettings, terms: Hooks, algorithm: Algorithm) -> None:
    """Raise UserError where these parts do not go together; say what of them would be drawn in vain."""
    check_variable(task, train, algo)
    check_head(terms, algorithm)
    check_learned_inner(terms, algo, algorithm)
    tell_unlabelled(task, algo.name, algorithm)
    tell_equal(task, terms)


def check_replay(terms: Hooks, algo: AlgorithmSettings, train: Split) -> None:
    """Raise UserError where remembered images would have no place in a training."""
    if terms.replay is None or terms.replay.memory is None:
        return
    if algo.mini_batch is not None and not train.by_image:
        raise UserError(
            f"reg.replay: algo={algo.name} trains a classifier of this data's training classes alone, which is thrown "
            "away at the test: those of earlier data have no place in it. Type data.protocol=images where the data has "
            "it, an algorithm that trains on episodes, or leave replay out of reg"
        )
    if terms.target:
        raise UserError(f"reg.{terms.target} reads a target domain, which remembered images do not have: leave out one")
    if train.query_images is not None:
        raise UserError(
            "reg.replay does not know task.query_domain: type task.query_domain=null, or leave replay out of reg"
        )
    if train.group is not None:
        raise UserError("reg.replay does not know data.group: type data.group=null, or leave replay out of reg")


def check_variable(task: Task, train: Train, algo: AlgorithmSettings) -> None:
    """Raise UserError for a meta-batch of several episodes, each with a way of its own."""
    if task.fixed or algo.mini_batch is not None:
        return
    if (train.meta_batch or 1) > 1:
        raise UserError(
            f"train.meta_batch={train.meta_batch}: task=variable has one episode a meta-step; type train.meta_batch=1"
        )
    if algo.meta_batch > 1:
        logger.info(f"algo.meta_batch={algo.meta_batch}: with task=variable a meta-step is one episode")


def check_head(terms: Hooks, algorithm: Algorithm) -> None:
    """Raise UserError where a training attack would climb the loss of a head that tells it nothing."""
    start = algorithm_traits(algorithm).head_init
    why = {
        "zero": "under a zero head no image has a gradient, so the attack would do nothing",
        "random": "the head is drawn anew for the attack and for the adaptation, so it would climb another net's loss",
    }
    if terms.first and start in why:
        raise UserError(
            f"algo.head_init={start} and an attack on the support in training: {why[start]}; type another "
            "algo.head_init, or the attack's on=query"
        )


def check_learned_inner(terms: Hooks, algo: AlgorithmSettings, algorithm: Algorithm) -> None:
    """Raise UserError where no meta-gradient reaches the parameters of a learned loss of the inner steps."""
    if not terms.learned_inner:
        return
    if getattr(algorithm, "first_order", False):
        raise UserError(
            f"{terms.learned_inner} is learned through the inner steps, and algo.first_order=true makes their "
            "gradients constants: type algo.first_order=false"
        )
    if algo.objective_traits.solves:
        raise UserError(
            f"{terms.learned_inner} is learned through the inner steps, and algo={algo.name} differentiates none of "
            "them: type an algorithm that does, as algo=maml"
        )


def takes_graphs(
    engine: Engine | AutoEngine, device: torch.device, task: Task, algo: AlgorithmSettings, algorithm: Algorithm
) -> bool:
    """Return whether meta-steps are to be CUDA graphs; UserError where engine.graphs=true and they cannot be."""
    if not isinstance(engine, AutoEngine | Vectorized) or engine.graphs is False:
        return False
    if engine.graphs is None:
        stays = not algorithm_traits(algorithm).leaves_device
        return device.type == "cuda" and stays and (task.fixed or algo.mini_batch is not None)
    if device.type != "cuda":
        raise UserError(
            f"engine.graphs=true needs a CUDA device, this is {device.type}: type engine.graphs=false, or device=cuda"
        )
    if algorithm_traits(algorithm).leaves_device:
        raise UserError(
            f"engine.graphs=true: algo={algo.name} solves on the processor within a meta-step, which no CUDA graph can "
            "hold; type engine.graphs=false"
        )
    if not task.fixed and algo.mini_batch is None:
        raise UserError(
            "engine.graphs=true: a graph has one shape, and with task=variable each episode has its own; type "
            "engine.graphs=false"
        )
    return True


def check_precision(engine: Engine | AutoEngine, algo: AlgorithmSettings, algorithm: Algorithm) -> None:
    """Raise UserError for bfloat16 where inner steps go through the body: it has too few digits for them.

    tests/engines/test_precision.py measures which algorithms these are.
    """
    coarse = isinstance(engine, AutoEngine | Learn2Learn | Vectorized) and engine.precision == "bf16"
    if coarse and algorithm_traits(algorithm).adapts_body:
        raise UserError(
            f"engine.precision=bf16: algo={algo.name} takes inner steps through the body, and in bfloat16 its "
            "meta-gradients point elsewhere (docs/performance.md); type engine.precision=tf32 or float32"
        )


def check_drops(net: nn.Module, algo: AlgorithmSettings) -> None:
    """Raise UserError where the net drops at random and the algorithm needs it to be the same at each look."""
    drops = [n for n, m in net.named_modules() if type(m) in SHARES and vars(m)[SHARES[type(m)]] > 0]
    if drops and algo.objective_traits.solves:
        raise UserError(
            f"algo={algo.name} solves equations with the Hessian of the inner problem, and dropout in the net "
            f"({drops[0]}) makes it another at each look: leave dropout and dropblock out of reg, and type "
            "backbone.dropout=0 backbone.dropblock=0 where the backbone has them"
        )


def tell_unlabelled(task: Task, name: str, algorithm: Algorithm) -> None:
    """Say where unlabelled images are drawn and not read, or would be read and are not drawn."""
    unlabelled = algorithm_traits(algorithm).unlabelled
    if task.unlabelled and unlabelled == "ignored":
        logger.info(f"task.unlabelled={task.unlabelled}: algo={name} does not read unlabelled images as it is set")
    if unlabelled == "needed" and not task.unlabelled:
        logger.info(
            f"algo={name} is set to learn from unlabelled images, and has none; task.unlabelled=5 draws 5 a class"
        )


def tell_random_body(config: ExperimentConfig, name: str, algorithm: Algorithm, backbone: Backbone) -> None:
    """Say where the body's weights are kept as they are, and are random."""
    given = isinstance(backbone, PretrainedBackbone) and backbone.normalization() is not None
    begun = given or config.train.init is not None or config.resume is not None
    if algorithm_traits(algorithm).keeps_body and not begun:
        logger.warning(
            f"algo={name} keeps the weights of the body, and these are random: train one first, as with algo=baseline, "
            "and start from it by train.init=RUN, or type backbone.weights"
        )


def tell_equal(task: Task, terms: Hooks) -> None:
    """Say where a regularizer is for unequal supports, and training has none."""
    if terms.unequal and task.fixed:
        logger.info(
            f"reg.{terms.unequal}: training episodes have as many images of each class, where it does nothing; it acts "
            "where their numbers differ, as at a test with task.shots, in metalab predict or with task=variable"
        )


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
