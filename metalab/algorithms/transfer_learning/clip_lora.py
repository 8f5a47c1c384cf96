"""CLIP-LoRA: Zanella, Ben Ayed 2024: low-rank additions to both of CLIP's encoders, learned on the support."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from metalab.algorithms.components.augmented_copies import Copies
from metalab.algorithms.components.cosine_to_means import CosineToMeans
from metalab.algorithms.components.fixed_draws import shuffled_batches
from metalab.algorithms.components.inner_loop import adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.text_classifier import CosineToNames, TextEncoder

LEAST_RATE = 1e-6  # where the cosine ends (their code, lora.py)


@dataclass(frozen=True)
class CLIPLoRA:
    """Classify by scale cos(image, class name); for a task, learn additions to the image and the text encoder.

    AdamW by the cross-entropy of mini-batches of augmented copies of the support, at a rate that falls from lr along a
    cosine (sec. 4). What is added, and to what, the backbone says: theirs is backbone.lora=2 backbone.lora_on=qkv
    backbone.lora_alpha=1.414, as their code counts additions 1 / sqrt(rank), and a quarter of what goes into one is
    dropped, which is left out here; without backbone.lora all of the image encoder that learns is changed. batch:
    images a step. crop, flip: of the copies, as reg.augment has them, crop as a share of the image's side, in the place
    of their random resized crops. The draws are the same numbers in every task.

    Names need backbone=open_clip and all classes at once, in `metalab predict` or with task=all_way. In training and
    in other episodes nobody says them, and the support's class means stand in their place.
    """

    way: int
    scale: float
    lr: float
    batch: int
    crop: float
    flip: float
    templates: Sequence[str]

    traits: ClassVar = AlgorithmTraits(without_training={})

    def __post_init__(self) -> None:
        for key in ("scale", "lr", "batch"):
            check_positive(f"algo.{key}", getattr(self, key))
        if not self.templates or not all("{}" in each for each in self.templates):
            raise UserError(f"algo.templates={list(self.templates)}: expected sentences with {{}} for the class's name")
        Copies(self.crop, self.flip, 0.0, 1.0)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"text": TextEncoder(self.templates)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        named = learner.buffers()["text.tokens"].numel()

        def model(at: Learner) -> Model:
            return CosineToNames(at, self.scale) if named else CosineToMeans(at, support, self.way, 1 / self.scale)

        names, how = adapted_parameter_names(learner, ("body.", "text.")), InnerOptimizer("adamw", self.lr)
        batches = shuffled_batches(len(support.y), self.batch, steps)
        yield model(learner)
        for step, copies in enumerate(Copies(self.crop, self.flip, 0.0, 1.0).of_batches(support.x, batches)):
            batch = support._replace(x=copies, y=support.y[torch.as_tensor(batches[step], device=support.y.device)])
            rate = LEAST_RATE + (self.lr - LEAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2

            def on_copies(at: Model, copied: Batch) -> Tensor:
                return loss(model(cast(Learner, at)), copied)

            learner, how = inner_step(learner, batch, on_copies, replace(how, lr=rate), names, first_order=True)
            yield model(learner)
