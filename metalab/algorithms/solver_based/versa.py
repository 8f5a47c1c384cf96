"""VERSA: Gordon, Bronskill, Bauer, Nowozin, Turner 2019: a net that infers a distribution of the task's classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means
from metalab.algorithms.components.fixed_draws import normal_numbers
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class VERSA:
    """Classify by the mean probability of linear classifiers, each class's drawn from what its mean feature says.

    Weight and bias of a class are normal, with a mean and a variance an element that an amortization network of three
    layers makes of the mean of its support features, whatever the other classes are (sec. 3, eq. 5); training descends
    the log of the queries' mean probability over the draws (eq. 4). samples: classifiers that are drawn.
    draws: anew for each task, or the same normal numbers in every one, so that a test can be had again.
    """

    way: int
    samples: int
    draws: Literal["anew", "fixed"]

    def __post_init__(self) -> None:
        check_positive("algo.samples", self.samples)

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(frozen_body=True, exports_episode=self.draws == "fixed")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"amortizer": Amortizer(features)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        means = class_means(learner.features(support.x).flatten(1), support.y, self.way)
        mean, log_variance = learner.part("amortizer", means).chunk(2, dim=1)  # [K,D+1] each
        shape = (self.samples, *mean.shape)
        fixed = self.draws == "fixed"
        noise = torch.as_tensor(normal_numbers(*shape)).to(mean) if fixed else torch.randn_like(mean.expand(shape))
        drawn = mean + (log_variance / 2).exp() * noise  # [L,K,D+1]

        def model(x: Tensor) -> Tensor:
            logits = drawn[..., :-1] @ learner.features(x).flatten(1).T + drawn[..., -1:]  # [L,K,N]
            return (logits.log_softmax(1).logsumexp(0) - log(self.samples)).T

        yield model


class Amortizer(nn.Module):
    """The amortization network: mean features [K,D] to means [K,D+1] and log variances [K,D+1] of weight and bias."""

    def __init__(self, features: int) -> None:
        super().__init__()

        def dense(out: int) -> nn.Sequential:
            first, second = nn.Linear(features, features), nn.Linear(features, features)
            return nn.Sequential(first, nn.ELU(), second, nn.ELU(), nn.Linear(features, out))

        self.weight_mean, self.bias_mean = dense(features), dense(1)
        self.weight_log_variance, self.bias_log_variance = dense(features), dense(1)

    def forward(self, means: Tensor) -> Tensor:
        nets = (self.weight_mean, self.bias_mean, self.weight_log_variance, self.bias_log_variance)
        return torch.cat([net(means) for net in nets], 1)
