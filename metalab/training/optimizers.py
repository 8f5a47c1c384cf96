"""The outer optimizer and its learning-rate schedule, as the YAML of the group `optim` names them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metalab.core.errors import UserError

Schedule = Literal["constant", "step", "milestones", "linear", "cosine"]


@dataclass(frozen=True)
class LRSchedule:
    """The learning rate over training, as a factor of optim.lr.

    step: times `factor` every `every` meta-steps. milestones: shares[i] from milestones[i] finished meta-steps on.
    linear, cosine: from 1 to `final` over all of train.steps.
    """

    schedule: Schedule
    every: int
    factor: float
    final: float
    milestones: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"optim.every={self.every}: expected 1 or more meta-steps, as in optim.every=2000")
        _within("factor", self.factor, "above 0, at most 1", 0 < self.factor <= 1)
        _within("final", self.final, "0 to 1", 0 <= self.final <= 1)
        ordered = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        if len(self.milestones) != len(self.shares) or not ordered or any(share <= 0 for share in self.shares):
            raise UserError(
                f"optim.milestones={list(self.milestones)} with optim.shares={list(self.shares)}: expected rising "
                "meta-steps and as many shares above 0, as in optim.milestones=[2000,4000] optim.shares=[0.1,0.01]"
            )
        if self.schedule == "milestones" and not self.milestones:
            raise UserError("optim.schedule=milestones: type when, as optim.milestones=[2000] optim.shares=[0.1]")

    def at(self, step: int, steps: int) -> float:
        """Return the factor for the meta-step after `step` finished ones, of `steps` in all."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "step":
            return self.factor ** (step // self.every)
        if self.schedule == "milestones":
            return (1.0, *self.shares)[sum(step >= at for at in self.milestones)]
        done = min(step / steps, 1.0)
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * left

    @property
    def needs_steps(self) -> bool:
        """Whether more train.steps change the rate of every step."""
        return self.schedule in ("linear", "cosine")


@dataclass(frozen=True)
class CyclicCosine(LRSchedule):
    """Cosine with restarts: `cycles` times from 1 to `final`, each over ceil(steps / cycles) meta-steps.

    That of snapshot ensembles (Huang et al. 2017, eq. 2).
    """

    cycles: int = 1

    def at(self, step: int, steps: int) -> float:
        length = -(-steps // self.cycles)
        return super().at(step % length, length)

    def ends(self, steps: int) -> tuple[int, ...]:
        """Return how many meta-steps are finished at the end of each cycle; UserError where one would have none."""
        length = -(-steps // self.cycles)
        if length * (self.cycles - 1) >= steps:
            raise UserError(
                f"train.snapshots={self.cycles}: train.steps={steps} are too few for so many cycles of {length} steps "
                f"each: type a smaller number, or train.steps={self.cycles * length}"
            )
        return tuple(min(length * cycle, steps) for cycle in range(1, self.cycles + 1))


def cyclic(rate: LRSchedule, cycles: int) -> CyclicCosine:
    """Return a schedule's cosine with restarts; UserError where optim asks for another."""
    if rate.schedule not in ("constant", "cosine"):
        raise UserError(
            f"train.snapshots={cycles} has a cosine schedule with restarts, and optim.schedule={rate.schedule} is "
            "another: type optim.schedule=cosine"
        )
    return CyclicCosine(**{**vars(rate), "schedule": "cosine"}, cycles=cycles)


@dataclass(frozen=True)
class Clip:
    """Limits on the meta-gradient: each element to ±value, its norm; null: none.

    clip_apart: limit the norm of each part of the net alone, of body, head, relation module ... (Relation networks).
    """

    clip_value: float | None
    clip_norm: float | None
    clip_apart: bool = False

    def __post_init__(self) -> None:
        for key, value in {"clip_value": self.clip_value, "clip_norm": self.clip_norm}.items():
            if value is not None:
                _within(key, value, "a number above 0, or null for no limit", value > 0)

    def __call__(self, parameters: list[Tensor], parts: Sequence[Sequence[Tensor]] | None = None) -> Tensor:
        """Clip the gradients in place; return their norm before. parts: the same parameters, part by part."""
        before = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm is not None:
            for group in parts if self.clip_apart and parts else [parameters]:
                torch.nn.utils.clip_grad_norm_(group, self.clip_norm)  # of what the other limit has left
        return before


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), or AdamW (Loshchilov & Hutter 2019) where weight_decay is above 0.

    eps: what is added to the root of the mean square; a gradient that is small beside it moves the weights less.
    """

    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _within("lr", self.lr, "a number above 0", 0 < self.lr < math.inf)
        _within("weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)
        _within("eps", self.eps, "a number above 0", self.eps > 0)
        for key, beta in {"beta1": self.beta1, "beta2": self.beta2}.items():
            _within(key, beta, "0 up to but not including 1", 0 <= beta < 1)

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum; weight_decay is torch's coupled one."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float

    def __post_init__(self) -> None:
        _within("lr", self.lr, "a number above 0", 0 < self.lr < math.inf)
        _within("momentum", self.momentum, "0 to 1", 0 <= self.momentum <= 1)
        _within("weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)
        if self.nesterov and self.momentum <= 0:
            raise UserError("optim.nesterov=true needs momentum: type optim.momentum=0.9 or optim.nesterov=false")

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Hinton 2012, lecture 6e); alpha: decay of the mean square; weight_decay is torch's coupled one."""

    lr: float
    alpha: float
    momentum: float
    weight_decay: float

    def __post_init__(self) -> None:
        _within("lr", self.lr, "a number above 0", 0 < self.lr < math.inf)
        _within("alpha", self.alpha, "0 up to but not including 1", 0 <= self.alpha < 1)
        _within("momentum", self.momentum, "0 to 1", 0 <= self.momentum <= 1)
        _within("weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            parameters, lr=self.lr, alpha=self.alpha, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (Duchi, Hazan, Singer 2011); weight_decay is torch's coupled one."""

    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        _within("lr", self.lr, "a number above 0", 0 < self.lr < math.inf)
        _within("weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(parameters, lr=self.lr, weight_decay=self.weight_decay)


class MetaOptimizer:
    """The outer optimizer with its schedule and clipping; parts: its parameters, part by part of the net."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rate: LRSchedule,
        clip: Clip,
        steps: int,
        parts: Sequence[Sequence[Tensor]] | None = None,
    ) -> None:
        self.optimizer, self.rate, self.clip, self.steps, self.parts = optimizer, rate, clip, steps, parts
        self.lr = optimizer.defaults["lr"]

    def step(self, step: int) -> tuple[Tensor, float]:
        """Take the meta-step after `step` finished ones; return the gradient's norm before clipping, and the rate."""
        groups = self.optimizer.param_groups
        norm = self.clip([p for group in groups for p in group["params"]], self.parts)
        lr = self.lr * self.rate.at(step, self.steps)
        for group in groups:
            group["lr"] = lr
        self.optimizer.step()
        return norm, lr


def _within(key: str, value: float, expected: str, fits: bool) -> None:
    """Raise UserError where optim.<key> does not fit what is expected."""
    if not fits:
        raise UserError(f"optim.{key}={value:g}: expected {expected}")
