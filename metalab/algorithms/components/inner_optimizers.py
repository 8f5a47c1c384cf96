"""The inner optimizers: torch.optim's rules as pure functions, which the outer loop can differentiate.

sgd_hd is none of torch's: SGD that descends its own rate by hypergradients (Baydin et al. 2018, algorithm 4, SGD-HD).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Inner = Literal["sgd", "sgd_hd", "adam", "adamw", "adagrad", "rmsprop"]
Tensors = dict[str, Tensor]  # by a parameter's name


@dataclass(frozen=True)
class InnerRule:
    """What an optimizer divides the mean gradient by, with torch.optim's default values."""

    mean: float = 0.0  # decay of the mean gradient; 0: the gradient itself
    square: float | None = None  # decay of the mean square; None: nothing is divided; 1: squares are summed
    unbiased: bool = False  # whether both means are corrected for their start at 0
    decay: float = 0.0  # decoupled weight decay
    eps: float = 1e-8  # added to the root
    hyper: float = 0.0  # the rate's own rate: it grows by this times the product of two gradients in turn


RULES: dict[Inner, InnerRule] = {
    "sgd": InnerRule(),
    "sgd_hd": InnerRule(hyper=1e-3),  # the paper's for plain SGD (sec. 5)
    "adam": InnerRule(mean=0.9, square=0.999, unbiased=True),
    "adamw": InnerRule(mean=0.9, square=0.999, unbiased=True, decay=0.01),
    "adagrad": InnerRule(square=1.0, eps=1e-10),
    "rmsprop": InnerRule(square=0.99),
}


@dataclass(frozen=True)
class InnerOptimizer:
    """One task's inner optimizer after `taken` steps; a step gives the new parameters and the next InnerOptimizer."""

    inner: Inner
    lr: float | Tensor
    taken: int = 0
    means: Tensors = field(default_factory=dict[str, Tensor])
    squares: Tensors = field(default_factory=dict[str, Tensor])

    def step(self, theta: Tensors, gradient: Tensors) -> tuple[Tensors, "InnerOptimizer"]:
        """Return the parameters that have a gradient after one step, and the optimizer after it."""
        rule, taken = RULES[self.inner], self.taken + 1
        kept = {n: (1 - self.lr * rule.decay) * theta[n] for n in gradient} if rule.decay else theta
        means, after, lr = gradient, {}, self.lr
        if rule.hyper:
            lr = self.lr + rule.hyper * _product(gradient, self.means)
            new = {n: _moved(theta[n], g, lr) for n, g in gradient.items()}
            return new, InnerOptimizer(self.inner, lr, taken, gradient)
        if rule.mean:
            means = after = _summed(self.means, rule.mean, 1 - rule.mean, gradient)
            lr = self.lr / (1 - rule.mean**taken) if rule.unbiased else self.lr
        if rule.square is None:
            new = {n: _moved(kept[n], m, lr) for n, m in means.items()}
            return new, InnerOptimizer(self.inner, self.lr, taken, after)
        share = 1.0 if rule.square == 1 else 1 - rule.square
        squares = _summed(self.squares, rule.square, share, {n: g.square() for n, g in gradient.items()})
        right = 1 - rule.square**taken if rule.unbiased else 1.0
        new = {n: kept[n] - lr * m / (root(squares[n] / right) + rule.eps) for n, m in means.items()}
        return new, InnerOptimizer(self.inner, self.lr, taken, after, squares)


def _moved(w: Tensor, by: Tensor, lr: float | Tensor) -> Tensor:
    return w - lr * by if isinstance(lr, Tensor) else w.add(by, alpha=-lr)


def _product(gradient: Tensors, before: Tensors) -> Tensor | float:
    """Return the inner product of a gradient and the one before it; 0 at the first step."""
    return torch.stack([(gradient[n] * g).sum() for n, g in before.items()]).sum() if before else 0.0


def _summed(before: Tensors, decay: float, share: float, new: Tensors) -> Tensors:
    """Return decay times what was summed up so far, nothing before the first step, plus share times what is new."""
    return {n: share * t if n not in before else decay * before[n] + share * t for n, t in new.items()}


def root(x: Tensor) -> Tensor:
    """Return the square root, whose slope is 0 at 0 in place of infinite: dead units have gradients of 0."""
    there = x > 0
    return torch.where(there, torch.where(there, x, 1.0).sqrt(), 0.0)
