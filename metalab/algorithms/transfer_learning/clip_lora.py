"""CLIP-LoRA: Zanella, Ben Ayed 2024: low-rank additions to both of CLIP's encoders, learned on the support."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.augmented_copies import Copies
from metalab.algorithms.components.fixed_draws import shuffled_batches
from metalab.algorithms.components.inner_loop import adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.parametrizations import is_addition
from metalab.models.text_classifier import TextEncoder

LEAST_RATE = 1e-6  # where the cosine ends (their code, lora.py)


@dataclass(frozen=True)
class CLIPLoRA:
    """Classify by scale cos(image, class name); for a task, learn additions to the image and the text encoder.

    AdamW by the cross-entropy of mini-batches of augmented copies of the support, at a rate that falls from lr along a
    cosine (sec. 4). What is added, and to what, the backbone says: theirs is backbone.lora=2 backbone.lora_on=qkv
    backbone.lora_alpha=1.414, as their code counts additions 1 / sqrt(rank), and a quarter of what goes into one is
    dropped, which is left out here. batch: images a step. crop, flip: of the copies, as reg.augment has them, crop as a share of the image's side,
    in the place of its random resized crops. The draws are the same numbers in every task.

    Names need backbone=open_clip and all classes at once, in `metalab predict` or with task=all_way.
    """

    way: int
    scale: float
    lr: float
    batch: int
    crop: float
    flip: float
    templates: Sequence[str]

    traits: ClassVar = AlgorithmTraits(without_training={}, adapts_body=True)

    def __post_init__(self) -> None:
        for key in ("scale", "lr", "batch"):
            check_positive(f"algo.{key}", getattr(self, key))
        if not self.templates or not all("{}" in each for each in self.templates):
            raise UserError(f"algo.templates={list(self.templates)}: expected sentences with {{}} for the class's name")
        Copies(self.crop, self.flip, 0.0, 1.0)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        if not any(is_addition(name) for name, _ in body.named_parameters()):
            raise UserError(
                "algo=clip_lora learns what backbone.lora adds: type backbone=open_clip backbone.lora=2 "
                "backbone.lora_on=qkv backbone.lora_alpha=1.414"
            )
        return {"text": TextEncoder(self.templates)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        if not learner.buffers()["text.tokens"].numel():
            raise UserError(
                "algo=clip_lora classifies by class names, and none are read here: type backbone=open_clip with "
                "task=all_way, or metalab predict"
            )
        names, how = adapted_parameter_names(learner, ("body.", "text.")), InnerOptimizer("adamw", self.lr)
        batches = shuffled_batches(len(support.y), self.batch, steps)
        yield NamedCosines(learner, self.scale)
        for step, copies in enumerate(Copies(self.crop, self.flip, 0.0, 1.0).of_batches(support.x, batches)):
            y = support.y[torch.from_numpy(batches[step]).to(support.y.device)]
            rate = LEAST_RATE + (self.lr - LEAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2

            def on_copies(at: Model, batch: Batch) -> Tensor:
                return loss(NamedCosines(cast(Learner, at), self.scale), batch)

            batch = support._replace(x=copies, y=y)
            learner, how = inner_step(learner, batch, on_copies, replace(how, lr=rate), names, first_order=True)
            yield NamedCosines(learner, self.scale)


class NamedCosines:
    """The model of a learner: scale times the cosines of images and the classes' names, which are encoded once."""

    def __init__(self, learner: Learner, scale: float) -> None:
        self.learner, self.scale = learner, scale

    def __call__(self, x: Tensor) -> Tensor:
        images = F.normalize(self.learner.features(x).flatten(1), dim=1)
        return self.scale * images @ self._names.to(images.dtype).T

    def parameters(self) -> dict[str, Tensor]:
        """Return the learner's, for what penalizes weights."""
        return self.learner.parameters()

    @cached_property
    def _names(self) -> Tensor:
        return self.learner.part("text")
