"""P>M>F: Hu, Li, Stühmer, Kim, Hospedales 2022: a pretrained net, meta-trained, fine-tuned on augmented supports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, cosines, members
from metalab.algorithms.components.fixed_draws import uniform_numbers
from metalab.algorithms.components.inner_loop import adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import InnerOptimizer
from metalab.algorithms.components.temperature import temperature, temperature_parts
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.data.sampling.augment import NUMBERS, Augment


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
        check_positive("algo.temperature", self.temperature)
        if self.lr is not None:
            check_positive("algo.lr", self.lr)
        if not self.rates or min(self.rates) < 0:
            raise UserError(f"algo.rates={list(self.rates)}: expected learning rates of 0 or more, as [0,0.0001,0.001]")
        for key in ("crop", "flip", "jitter", "probability"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"algo.{key}={getattr(self, key):g}: expected a share from 0 to 1")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return temperature_parts(self.temperature, learned=True)

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        yield self._by_means(learner, support)
        if steps:
            lr = self._chosen(learner, support, loss, steps) if self.lr is None else self.lr
            yield from self._fine_tuned(learner, support, loss, steps, lr)

    def _by_means(self, learner: Learner, support: Batch) -> Model:
        scale = temperature(learner, self.temperature, learned=True)
        means = class_means(learner.features(support.x).flatten(1), support.y, self.way)
        return lambda x: cosines(learner.features(x).flatten(1), means) / scale

    def _fine_tuned(self, at: Learner, support: Batch, loss: Loss, steps: int, lr: float | Tensor) -> Iterator[Model]:
        names, how = adapted_parameter_names(at, ("body.",)), InnerOptimizer("adam", lr)
        augment = Augment(round(self.crop * support.x.shape[-1]), self.flip, self.jitter, 0.0)
        draws = uniform_numbers(steps, support.x.shape[0] + 1, NUMBERS)
        for draw in draws:
            copies = support.x
            if draw[-1, 0] < self.probability:
                copies = augment(support.x[None], torch.as_tensor(draw[None, :-1]).to(support.x))[0]

            def on_copies(model: Model, batch: Batch, copies: Tensor = copies) -> Tensor:
                return loss(self._by_means(model, batch), batch._replace(x=copies))  # type: ignore[arg-type]

            at, how = inner_step(at, support, on_copies, how, names, first_order=True)
            yield self._by_means(at, support)

    def _chosen(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Tensor:
        """Return the rate after whose steps, on each class's first image, the others are classified best."""
        place, count = torch.arange(len(support.y), device=support.y.device), len(support.y) - self.way
        if not count:
            return support.x.new_zeros(())
        first = (members(support.y, self.way) * (len(place) - place)[:, None]).argmax(0)  # [K]
        others = (place[:, None] == first).any(1).to(torch.int8).argsort(stable=True)[:count]
        known = support._replace(x=support.x[first], y=place[: self.way])
        x, y, right = support.x[others], support.y[others], list[Tensor]()
        for rate in self.rates:
            *_, model = (
                self._by_means(learner, known),
                *self._fine_tuned(learner, known, loss, steps if rate else 0, rate),
            )
            right.append((model(x).argmax(1) == y).sum())
        order = -torch.arange(len(self.rates), device=y.device)  # of equals the first
        return support.x.new_tensor(self.rates)[(torch.stack(right) * len(self.rates) + order).argmax()]
