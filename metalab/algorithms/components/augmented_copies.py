"""Changed copies of a task's images, a step of its fine-tuning each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metalab.algorithms.components.fixed_draws import uniform_numbers
from metalab.core.errors import UserError
from metalab.data.sampling.augment import NUMBERS, Augment


@dataclass(frozen=True)
class Copies:
    """What a copy is: crop (of an image padded by this share of its side), flip and jitter as reg.augment has them.

    probability: of a step whose copies are changed. The draws are the same numbers in every episode.
    """

    crop: float
    flip: float
    jitter: float
    probability: float

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UserError(f"algo.{key}={value:g}: expected a share from 0 to 1")

    def of(self, x: Tensor, steps: int) -> Iterator[Tensor]:
        """Give copies of images x [N,C,H,W] for each of the steps."""
        for draws in uniform_numbers(steps, len(x) + 1, NUMBERS):
            yield self._copied(x, draws)

    def of_batches(self, x: Tensor, batches: np.ndarray) -> Iterator[Tensor]:
        """Give copies of some of the images for each step.

        Args:
            x: [N,C,H,W].
            batches: int64 [steps,B], which of them.
        """
        for chosen, draws in zip(batches, uniform_numbers(len(batches), batches.shape[1] + 1, NUMBERS), strict=True):
            yield self._copied(x[torch.as_tensor(chosen, device=x.device)], draws)

    def _copied(self, x: Tensor, draws: np.ndarray) -> Tensor:
        augment = Augment(round(self.crop * x.shape[-1]), self.flip, self.jitter, 0.0)
        changed = draws[-1, 0] < self.probability
        return augment(x[None], torch.as_tensor(draws[None, :-1]).to(x))[0] if changed else x
