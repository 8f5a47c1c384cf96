"""From the config's nodes to the objects that train and evaluate share: device, algorithm, objective, net."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.attacks.records import Attacks
from metalab.config import build, locate, settings
from metalab.errors import UserError
from metalab.interfaces import Algorithm, Batch, Engine, Loss, Model, Objective, Split
from metalab.models.layers import Normalise
from metalab.models.net import Net
from metalab.models.pretrained import Headless, Torchvision
from metalab.objectives.by_way import ByWay
from metalab.objectives.judge import PREDICTIONS
from metalab.objectives.robust import Robust
from metalab.regularisers import Terms
from metalab.task import Task


@dataclass(frozen=True)
class Method:
    """The keys of an algorithm's YAML that say how it is run; its other keys are the algorithm's own fields.

    A key test_x is x at validation and test: test_steps, test_batch, ...
    """

    name: str  # what reports call it
    objective: str
    bn: Literal["batch", "support", "one", "running"]
    meta_batch: int
    train_way: int | None
    train_shot: int | None
    train_query: int | None
    steps: int = 0
    mini_batch: int | None = None  # images; trains a plain classifier of all training classes; None: on episodes
    episode_loss: str = "metalab.objectives.judge.cross_entropy"  # of inner steps and of training's queries; a Loss
    besides: str | None = None  # a further objective that metalab eval reports, in episodes of the training's shots

    def __post_init__(self) -> None:
        if self.mini_batch is not None and self.mini_batch < 2:
            raise UserError(f"algo.mini_batch={self.mini_batch}: expected 2 images or more")
        if self.steps < 0 or self.meta_batch < 1:
            raise UserError(
                f"algo.steps, algo.test_steps must be 0 or more, here {self.steps}; "
                f"algo.meta_batch 1 or more, here {self.meta_batch}"
            )
        if self.besides is not None:
            locate(self.besides, "algo.besides")  # a mistyped path is told before any work
        _ = self.loss

    @property
    def loss(self) -> Loss:
        """The loss of the support in inner steps, and of the queries in training."""
        return locate(self.episode_loss, "algo.episode_loss")


def taken(engine: Engine) -> dict[str, Any]:
    """Return the node that builds an engine as it is now, with the chunk that the memory left it: for checkpoints."""
    return {"_target_": f"{type(engine).__module__}.{type(engine).__qualname__}", **vars(engine)}


def parts_of(node: Mapping[str, Any], *kinds: type) -> list[dict[str, Any]]:
    """Split a node by the fields of the given dataclasses; what belongs to none of them comes last."""
    names = [{f.name for f in fields(kind)} for kind in kinds]
    taken = set().union(*names)
    return [{k: v for k, v in node.items() if k in name} for name in names] + [
        {k: v for k, v in node.items() if k not in taken}
    ]


def method(node: Mapping[str, Any], way: int, test: bool) -> tuple[Method, Algorithm]:
    """Build the algorithm of cfg.algo for `way` classes, as it trains or (test) as it is validated and tested."""
    at_test = {k: v for k, v in node.items() if k.startswith("test_")}
    plain = {k: v for k, v in node.items() if k not in at_test}
    if test:
        plain |= {k.removeprefix("test_"): v for k, v in at_test.items()}
    how, own = parts_of(plain, Method)
    return settings(Method, how, "algo"), build(own, "algo", way=way)


def objective(path: str, algorithm: Algorithm, steps: int, inner: Loss, outer: Loss, bn: str) -> Any:
    """Build a training objective by its dotted path."""
    return locate(path, "algo.objective")(algorithm, steps, inner, outer, PREDICTIONS[bn])


def by_way(task: Task, algorithm: Algorithm, make: Callable[[Algorithm, int], Objective]) -> Objective:
    """Return make(algorithm, way) for the task's way, or, where each episode has its own, what makes it for that."""
    if task.fixed:
        return make(algorithm, task.way)
    return ByWay(lambda way: make(at_way(algorithm, way), way))


def at_way(algorithm: Algorithm, way: int) -> Algorithm:
    """Return the algorithm for another number of classes."""
    own: Any = algorithm  # a dataclass with a field `way`, as config.build has seen to
    return replace(own, way=way)


def measured_objective(how: Method, algorithm: Algorithm, bn: str, way: int, terms: Terms) -> Any:
    """Return what validation and test measure for every algorithm: the cross-entropy of the queries, unregularised.

    The inner steps descend the same loss as in training, with what `reg` adds to it.
    """

    def inner(model: Model, batch: Batch) -> Tensor:
        return how.loss(_of_way(model, way), batch)

    def measured(model: Model, batch: Batch) -> Tensor:
        return F.cross_entropy(_of_way(model, way)(batch.x), batch.y)

    return objective("metalab.objectives.query.QueryLoss", algorithm, how.steps, terms.inner(inner), measured, bn)


def _of_way(model: Model, way: int) -> Model:
    """Return the model, with a UserError where it knows another number of classes."""

    def logits(x: Tensor) -> Tensor:
        made = model(x)
        if made.shape[-1] != way:
            raise UserError(
                f"the head was learned for {made.shape[-1]} classes and the task has {way}; give "
                f"task.way={made.shape[-1]} and task.train_way the same, or train an algorithm that takes any way: "
                "protonet, or maml with algo.head_init=zero, random, prototype or knn"
            )
        return made

    return logits


def robust_objective(how: Method, algorithm: Algorithm, bn: str, attacks: Attacks, terms: Terms, drop: bool) -> Robust:
    """Return what is measured under attack; the inner steps are those of the clean measurement."""
    shared, predict = attacks.shared, PREDICTIONS[bn]
    inner = terms.inner(how.loss)
    return Robust(algorithm, how.steps, inner, predict, attacks.by_key, shared.on, drop, shared.support)


def body(node: Mapping[str, Any], channels: int, size: int) -> tuple[nn.Module, int]:
    """Build the backbone for images [C,size,size]; return it and the length of its flattened features."""
    net = build(node, "backbone").build(channels, size)
    with torch.no_grad():
        features = net.eval()(torch.zeros(2, channels, size, size)).flatten(1).shape[1]
    return net.train(), features


def network(backbone: Mapping[str, Any], algorithm: Algorithm, drop: nn.Module, normalise: Normalise, size: int) -> Net:
    """Build the net that is meta-learned for square images of `size`."""
    inside, features = body(backbone, normalise.mean.numel(), size)
    if isinstance(inside, Headless) and inside.expects:  # weights from elsewhere have a normalisation of their own
        normalise = inside.expects[0]
    return Net(normalise, inside, drop, algorithm.parts(inside, features))


def refuse_larger(
    backbone: Mapping[str, Any],
    algorithm: Algorithm,
    drop: nn.Module,
    sides: tuple[int, int],
    held: Mapping[str, Tensor],
) -> None:
    """Raise UserError, before any memory is taken, where the settings make a net far larger than a checkpoint's.

    sides: channels and side of the images; held: the tensors of the checkpoint's net.
    """
    channels, size = sides
    has, asked = sum(each.numel() for each in held.values()), math.inf
    try:
        with torch.device("meta"):
            made = network(backbone, algorithm, drop, Normalise([0.0] * channels, [1.0] * channels), size)
        asked = sum(each.numel() for each in made.state_dict().values())
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if "overflow" not in str(error):  # else it has more bytes than can be counted
            return  # a body of the user's own that is not made without memory; what cannot be made is told next
    if asked > 10 * has + 10**8:
        raise UserError(
            f"the settings make a net of {asked:,} numbers, and the checkpoint's has {has:,}: they are not those of "
            "the run; leave out algo and backbone, and take the config.yaml that the run wrote"
        )


def pretrained(backbone: Mapping[str, Any], net: Net) -> set[str]:
    """Give the body the weights that the backbone's node names, if any; return the ids of the classes they saw."""
    what = build(backbone, "backbone")
    if not isinstance(what, Torchvision):
        return set()
    ids = what.seen()
    what.load(net.body)
    return ids


def image_shape(split: Split) -> tuple[int, int]:
    """Return channels and side of a split's images; nets here take square images."""
    channels, height, width = split.images.shape[1:]
    if height != width:
        raise UserError(f"the images are {height}x{width}; the backbones take square ones: give data.size one number")
    return channels, height


def normalisation(images: Tensor, sample: int = 2000) -> Normalise:
    """Measure mean and deviation of each channel on evenly spaced training images, uint8 [N,C,H,W]."""
    chosen = images[:: max(1, len(images) // sample)].to(torch.float32) / 255
    std, mean = torch.std_mean(chosen, dim=(0, 2, 3))
    return Normalise(mean.tolist(), std.clamp(min=1e-3).tolist())


def device(name: str) -> torch.device:
    """Return the device of cfg.device: auto, cpu, cuda or cuda:N."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    if name == "cpu" or (name == "cuda" and count) or name in [f"cuda:{i}" for i in range(count)]:
        return torch.device(name)
    here = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))])
    raise UserError(f"device={name} is not here; choose one of: {here}")
