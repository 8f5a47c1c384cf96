"""An autoencoder: weights for a backbone from images without labels (Hinton and Salakhutdinov 2006)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, cosines
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.decoder import Decoder, input_channels


@dataclass(frozen=True)
class Autoencoder:
    """Train body and decoder to give images back; no label is looked at. For another method: train.init=RUN.

    Validation and test classify by the cosine to the class's mean feature. width: channels of the decoder.
    """

    way: int
    width: int

    traits: ClassVar = AlgorithmTraits(exports_episode=True)

    def __post_init__(self) -> None:
        check_positive("algo.width", self.width)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"decoder": Decoder(features, self.width, input_channels(body))}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        means = class_means(learner.features(support.x).flatten(1), support.y, self.way)

        def model(x: Tensor) -> Tensor:
            return 10 * cosines(learner.features(x).flatten(1), means)  # the loss's scale; the order is the cosine's

        yield model
