"""The net of a run, adapted to one support: a classifier of a person's own classes."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from metalab.algorithms.objectives.build import at_way
from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Batch, Learner, Loss, Model, algorithm_traits
from metalab.core.iteration import last
from metalab.engines.learn2learn import TaskLearner, laid_out
from metalab.evaluation.feature_store import sees_features_alone
from metalab.models.layers import running_statistics
from metalab.models.meta_net import Net, net_of_features
from metalab.models.text_classifier import text_classifier
from metalab.regularizers.base import identity_loss

Predict = Callable[[Tensor], Tensor]  # inputs [N,...] on the device -> logits [N,K]


@dataclass(frozen=True)
class Classifier:
    """A function from images to logits, with the names of its classes."""

    names: list[str]
    predict: Predict  # of inputs as `embed` gives them
    embed: Callable[[Tensor], Tensor]  # uint8 [N,C,H,W] -> what `predict` takes, on the device
    traceable: Predict | None = None  # images float32 [N,C,H,W] in [0,1] -> logits [N,K], in one pass; None: no net
    model: Model | None = None  # what the algorithm made: a learner where it adapted weights
    jointly: bool = False  # an image's logits depend on those that are classified with it, all of which belong together

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits [N,K], on the CPU, of images uint8 [N,C,H,W]."""
        return self.of_inputs(self.embed(images))

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """Return the logits [N,K], on the CPU, of what `embed` has returned."""
        return self.predict(inputs).double().cpu()


@dataclass(frozen=True)
class Adaptation:
    """How a net becomes a classifier of the classes of a support, as at the test of its run."""

    net: Net
    algorithm: Algorithm
    steps: int
    loss: Loss  # of the inner steps
    inner: Callable[[Loss], Loss]  # what regularizers make of it
    bn: str  # batch-norm statistics of predictions
    device: torch.device
    batch: int = 100  # images that go through the net at once

    def __post_init__(self) -> None:
        self.net.eval()  # nothing is dropped, whoever asks

    @property
    def frozen(self) -> bool:
        """Whether each image is seen through its features alone, which are then computed once."""
        return self.inner is identity_loss and sees_features_alone(self.algorithm, self.net, self.bn)

    @property
    def jointly(self) -> bool:
        """Whether all images of one call are inferred together."""
        return algorithm_traits(self.algorithm).transductive

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return what adapt takes for images uint8 [N,C,H,W]: features [N,D,h,w], or the images in [0,1]."""
        made = []
        for some in images.split(self.batch):
            made.append(self.seen(some.to(self.device).float().div_(255)))
        return torch.cat(made)

    def seen(self, images: Tensor) -> Tensor:
        """Return what adapt takes for images float32 [N,C,H,W] in [0,1], in one pass."""
        if not self.frozen:
            return images
        with self._statistics():
            return self.net("features", images)

    def predicted(self, model: Model, support: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits [N,K] of inputs, in one pass, of the model of a support's inputs."""
        with self._statistics():
            return PREDICTIONS[self.bn](model, support, inputs)

    @torch.no_grad()
    def features(self, support: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the body, as it is before it adapts, makes of a support and of images.

        Args:
            support: uint8 [N,C,H,W].
            images: uint8 [M,C,H,W], which see the batch-norm statistics that their predictions see.

        Returns:
            Features [N,D] and [M,D], on the CPU.
        """

        def body(x: Tensor) -> Tensor:
            return self.net("features", x).flatten(1)

        given, asked = (x.to(self.device).float().div_(255) for x in (support, images))
        with self._statistics():
            return body(given).cpu(), PREDICTIONS[self.bn](body, given, asked).cpu()

    @torch.no_grad()
    def adapt(self, inputs: Tensor, labels: Tensor, names: list[str]) -> Classifier:
        """Return the classifier that a support makes.

        Args:
            inputs: of the support, as embed returns them, [N,...].
            labels: their classes, int64 [N], 0 to the number of names - 1, each at least once.
            names: of the classes.

        Raises:
            UserError: where the net was trained for another number of classes.
        """
        if (text := text_classifier(self.net)) is not None:
            text.name(names)
        model, support = self.model(inputs, labels, len(names))

        @torch.no_grad()
        def predict(x: Tensor) -> Tensor:
            parts = [x] if self.jointly else x.split(self.batch)
            made = torch.cat([self.predicted(model, support.x, some) for some in parts])
            _refuse_other_way(made, len(names))
            return made

        def traceable(images: Tensor) -> Tensor:
            return self.predicted(model, support.x, self.seen(images))

        return Classifier(names, predict, self.embed, traceable=traceable, model=model, jointly=self.jointly)

    def learner(self) -> Learner:
        """Return the net as it is before it adapts; of a frozen one, what stands behind the features."""
        net = net_of_features(self.net) if self.frozen else self.net
        fixed = {name: p.detach() for name, p in net.named_parameters()}
        return cast(Learner, laid_out(TaskLearner(net, False).replace(cast(dict[str, Tensor], fixed))))

    def model(self, inputs: Tensor, labels: Tensor, way: int, learner: Learner | None = None) -> tuple[Model, Batch]:
        """Return the adapted model, from inputs [N,...] to logits, and the support that made it.

        learner: as `learner` returns it, where that is known already.
        """
        support = Batch(inputs, labels.to(self.device), inputs[:0])

        def loss(model: Model, batch: Batch) -> Tensor:
            def checked(x: Tensor) -> Tensor:
                made = model(x)
                _refuse_other_way(made, way)
                return made

            return self.loss(checked, batch)

        with self._statistics():
            model = last(
                at_way(self.algorithm, way).adapt(learner or self.learner(), support, self.inner(loss), self.steps)
            )
        return model, support

    def _statistics(self) -> Any:
        return running_statistics() if self.bn == "running" else nullcontext()


def _refuse_other_way(logits: Tensor, way: int) -> None:
    if logits.shape[-1] != way:
        raise UserError(
            f"the run's head was learned for {logits.shape[-1]} classes and the support has {way}: give a support of "
            f"{logits.shape[-1]} classes, or a run of an algorithm that takes any number: protonet, or maml with "
            "algo.head_init=zero, random, prototype or knn"
        )
