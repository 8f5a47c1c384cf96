"""What of a run is exported: a function of tensors to record, the weights behind it, and what it must give."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import algorithm_traits
from metalab.engines.learn2learn import TaskLearner
from metalab.models.layers import has_batch_norm, running_statistics
from metalab.models.meta_net import Net
from metalab.serving.classifier import Adaptation
from metalab.serving.images import Support
from metalab.serving.loading import LoadedRun
from metalab.serving.practice import Practice
from metalab.serving.rejection import some_images

What = Literal["adapted", "episode", "features"]
Tensors = dict[str, Tensor]
MOST = 32  # images that a file is checked on
SUPPORT = "support.images"  # the tensor, beside the weights, whose batch-norm statistics predictions take
ONE_BY_ONE = "eval.bn=one passes images one by one, which no file holds: type eval.bn=support"


@dataclass(frozen=True)
class Exportable:
    """A function of tensors whose first dimensions may have any length, and what to check its copies by."""

    inputs: tuple[str, ...]  # names of its arguments: images, queries and support float32 [N,C,H,W], labels int64 [N]
    output: str  # logits [N,K], or features [N,D,h,w]
    record: Callable[..., Tensor]  # in one pass
    example: tuple[Tensor, ...]  # arguments that it is recorded with
    checks: list[tuple[Tensor, ...]]  # others, in other numbers
    ours: Callable[..., Tensor]  # what the same arguments give in metalab
    weights: Tensors | None  # None: it has no weights of its own
    restored: Callable[[Tensors], Callable[..., Tensor]]  # what weights that were read from a file compute
    bn: str
    checked_on: str  # where the images of the checks are from, in words

    def dimension(self, name: str) -> str:
        """Return the name of the first dimension of an argument: labels are as many as support images."""
        return "support" if name == "labels" else name


def adapted(run: LoadedRun, adaptation: Adaptation, practice: Practice) -> Exportable:
    """Return the classifier of one support, images -> logits before the temperature."""
    classifier, support = practice.classifier, practice.support
    if adaptation.bn == "one":
        raise UserError(ONE_BY_ONE)
    images, source = (support.images, "the support") if support else _images(run)
    known = None if support is None else _inputs(support.images)
    model, checked = classifier.model, _several(images)
    assert classifier.traceable is not None
    weights = None
    if isinstance(model, TaskLearner):
        weights = {**_state(adaptation.net), **model.parameters(), **model.buffers()}
        if known is not None and has_batch_norm(adaptation.net) and adaptation.bn == "support":
            weights[SUPPORT] = known

    def restored(tensors: Tensors) -> Callable[[Tensor], Tensor]:
        own = tensors.get(SUPPORT, images[:0])
        learner = _filled(adaptation.net, {name: t for name, t in tensors.items() if name != SUPPORT})
        return lambda x: adaptation.predicted(learner, own, x)

    return Exportable(
        inputs=("images",),
        output="logits",
        record=classifier.traceable,
        example=(_inputs(images[:2]),),
        checks=[(_inputs(some),) for some in (checked, checked[:1])],
        ours=lambda x: classifier.predict(classifier.embed(_pixels(x))),
        weights=weights,
        restored=restored,
        bn=adaptation.bn,
        checked_on=source,
    )


def episode(run: LoadedRun, support: Support | None) -> Exportable:
    """Return the whole of an episode: support images, their labels, queries -> logits of a fixed number of classes.

    Raises:
        UserError: for an algorithm that takes gradients, or solves, for each support.
    """
    adaptation = run.adaptation
    if not algorithm_traits(adaptation.algorithm).exports_episode:
        raise UserError(
            f"what=episode: algo={run.algo_name} learns from each support, by gradients, a solver, a sequence or "
            "random draws (algo.test_draws=anew), and no file holds that: type what=adapted support=FOLDER, which "
            "learns before it is written"
        )
    if adaptation.bn == "one":
        raise UserError(ONE_BY_ONE)
    if support is None:
        images, source = _images(run)
        labels = torch.arange(run.config.task.way).repeat(2)
        images = _several(images, len(labels))[: len(labels)]
    else:
        images, labels, source = support.images, support.labels, "the support"
    way = int(labels.max()) + 1
    x, asked = _inputs(images), _inputs(_several(images))
    first = torch.stack([(labels == k).nonzero()[0, 0] for k in range(way)])

    def of(using: Adaptation) -> Callable[..., Tensor]:
        learner = using.learner()  # here, so that weights that nothing reads are not recorded

        def compute(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
            model, known = using.model(using.seen(support), labels, way, learner)
            return using.predicted(model, known.x, using.seen(queries))

        return compute

    def ours(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        made = adaptation.adapt(adaptation.embed(_pixels(support)), labels, [str(k) for k in range(way)])
        return made.predict(made.embed(_pixels(queries)))

    return Exportable(
        inputs=("support", "labels", "queries"),
        output="logits",
        record=of(adaptation),
        example=(x, labels, x[:2]),
        checks=[
            (torch.cat([x, x[:1]]), torch.cat([labels, labels[:1]]), asked),
            (x[first], labels[first], asked[:1]),
        ],
        ours=ours,
        weights=_state(adaptation.net),
        restored=lambda tensors: of(replace(adaptation, net=cast(Net, _filled(adaptation.net, tensors).module))),
        bn=adaptation.bn,
        checked_on=source,
    )


def features(run: LoadedRun, support: Support | None) -> Exportable:
    """Return the net's features, images -> [N,D,h,w], by the stored batch-norm statistics, whatever eval.bn is."""
    net = run.adaptation.net
    images, source = _images(run) if support is None else (support.images, "the support")
    checked = _several(images)

    def of(net: Net) -> Callable[[Tensor], Tensor]:
        def compute(x: Tensor) -> Tensor:
            with running_statistics():
                return net("features", x)

        return compute

    state = {name: t for name, t in _state(net).items() if name.startswith(("body.", "normalize."))}
    return Exportable(
        inputs=("images",),
        output="features",
        record=of(net),
        example=(_inputs(images[:2]),),
        checks=[(_inputs(some),) for some in (checked, checked[:1])],
        ours=of(net),
        weights=state,
        restored=lambda tensors: of(cast(Net, _filled(net, tensors).module)),
        bn="running",
        checked_on=source,
    )


def _images(run: LoadedRun) -> tuple[Tensor, str]:
    """Return uint8 images [N,C,H,W] as the net takes them, of the run's own data or, without it, of noise."""
    try:
        return some_images(run.other_classes(), 0)[:MOST], "the run's own data"
    except UserError:
        channels, size = run.shape
        draw = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (MOST, channels, size, size), dtype=torch.uint8, generator=draw), "noise"


def _several(images: Tensor, least: int = 3) -> Tensor:
    """Return up to 32 images, or `least` where that is more, some of them twice where there are not so many."""
    return images[torch.arange(max(least, min(len(images), MOST))) % len(images)]


def _inputs(images: Tensor) -> Tensor:
    return images.float().div_(255)


def _pixels(inputs: Tensor) -> Tensor:
    return (inputs * 255).round().to(torch.uint8)


def _state(net: Any) -> Tensors:
    return {name: t.detach() for name, t in net.state_dict().items()}


def _filled(net: Net, tensors: Tensors) -> TaskLearner:
    """Return the net with these tensors, and zeros where they have none: what is missing shows."""
    copy = deepcopy(net)
    for tensor in copy.state_dict().values():
        tensor.zero_()
    return TaskLearner(copy, False).replace(tensors)
