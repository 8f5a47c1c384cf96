"""P>M>F: Hu, Li, Stühmer, Kim, Hospedales 2022: a pretrained net, meta-trained, fine-tuned on augmented supports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from metalab.algorithms.components.augmented_copies import Copies
from metalab.algorithms.components.cosine_to_means import CosineToMeans
from metalab.algorithms.components.inner_loop import adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import InnerOptimizer
from metalab.algorithms.components.support_splits import first_and_others
from metalab.algorithms.components.temperature import temperature, temperature_parts
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class PMF:
    """Classify by the cosine to class means; for a task, fine-tune the body on augmented copies of the support.

    Each of Adam's steps classifies new copies by the means of the images as they are (models/deploy.py). lr: of Adam;
    null: the one of `rates` (0 among them: no fine-tuning) after whose steps, on one image a class, the others of the
    support are classified best; of one image a class there is nothing to choose by, and it is 0. temperature: cosines
    are divided by it; it is meta-learned and starts there. crop, flip, jitter: of the copies, as reg.augment has them,
    crop as a share of the image's side, in the place of the authors' DiffAugment; probability: of a step with changed
    copies. The draws are the same numbers in every episode.
    """

    way: int
    lr: float | None
    rates: Sequence[float]
    temperature: float
    crop: float
    flip: float
    jitter: float
    probability: float

    traits = AlgorithmTraits(without_training={})

    def __post_init__(self) -> None:
        for key, value in {"temperature": self.temperature, "lr": 1.0 if self.lr is None else self.lr}.items():
            check_positive(f"algo.{key}", value)
        if not self.rates or min(self.rates) < 0:
            raise UserError(f"algo.rates={list(self.rates)}: expected learning rates of 0 or more, as [0,0.0001,0.001]")
        Copies(self.crop, self.flip, self.jitter, self.probability)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        if not any(p.requires_grad for p in body.parameters()):
            raise UserError("algo=pmf fine-tunes the body, and nothing of it learns: type backbone.trainable=all, or 1")
        return temperature_parts(self.temperature, learned=True)

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        yield self._by_means(learner, support)
        if steps:
            lr = self._chosen(learner, support, loss, steps) if self.lr is None else self.lr
            yield from (self._by_means(at, support) for at in self._fine_tuned(learner, support, loss, steps, lr))

    def _by_means(self, learner: Learner, support: Batch) -> Model:
        return CosineToMeans(learner, support, self.way, temperature(learner, self.temperature, learned=True))

    def _fine_tuned(self, at: Learner, support: Batch, loss: Loss, steps: int, lr: float | Tensor) -> Iterator[Learner]:
        names, how = adapted_parameter_names(at, ("body.",)), InnerOptimizer("adam", lr)
        for copies in Copies(self.crop, self.flip, self.jitter, self.probability).of(support.x, steps):

            def on_copies(model: Model, batch: Batch, copies: Tensor = copies) -> Tensor:
                return loss(self._by_means(cast(Learner, model), batch), batch._replace(x=copies))

            at, how = inner_step(at, support, on_copies, how, names, first_order=True)
            yield at

    def _chosen(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Tensor:
        """Return the rate after whose steps, on each class's first image, the others are classified best."""
        known, others = first_and_others(support, self.way)
        rates, right = support.x.new_tensor(self.rates), list[Tensor]()
        if not len(others.y):
            return rates.new_zeros(())
        for rate in self.rates:
            *_, tuned = (learner, *self._fine_tuned(learner, known, loss, steps if rate else 0, rate))
            right.append((self._by_means(tuned, known)(others.x).argmax(1) == others.y).sum())
        best = torch.stack(right).argsort(descending=True, stable=True)  # of equals the first
        return rates.gather(0, best[:1])[0]
