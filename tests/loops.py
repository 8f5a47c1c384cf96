"""The loop around a net of two numbers."""

import os
import signal
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import nn

from metalab.core.interfaces import Batch, Episode, TaskResult
from metalab.tracking.training_state import State
from metalab.training.loop import Plan, fit
from metalab.training.optimizers import SGD, Clip, LRSchedule, MetaOptimizer


@dataclass
class Bench:
    """A loop around a net of two numbers, whose engine reports the losses it is told and whose gradient is 1."""

    losses: dict[int, float] = field(default_factory=dict)  # by step, from 1; else 1 / step
    accuracies: list[float] = field(default_factory=lambda: [0.5])  # of the validations; the last goes on
    val_loss: list[float] = field(default_factory=lambda: [1.0])
    signals: dict[int, list[signal.Signals]] = field(default_factory=dict)  # raised in these steps
    lr: float = 0.1
    zeros: dict[int, float] = field(default_factory=dict)  # by step: what a training attack met
    explode: int = 0  # the step whose gradient makes the weights inf

    def __post_init__(self) -> None:
        self.net = nn.Linear(1, 1)
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.said: list[str] = []
        self.saved: list[tuple[str, int]] = []
        self.weights: list[float] = []
        self.state = State()
        self.progress: list[float] = []
        self.validated = 0

    def grad(self, objective: Any, net: nn.Module, episodes: Any, progress: torch.Tensor) -> TaskResult:
        assert net.training
        assert all(p.grad is None for p in net.parameters())
        for p in net.parameters():
            p.grad = torch.full_like(p, 3e38 if self.state.step + 1 == self.explode else 1.0)
        self.progress.append(progress.item())
        for number in self.signals.get(self.state.step + 1, []):
            os.kill(os.getpid(), number)
        loss = torch.tensor([self.losses.get(self.state.step + 1, 1 / (self.state.step + 1))])
        met = {"zero_gradients": torch.tensor([self.zeros[self.state.step + 1]])} if self.zeros else {}
        return TaskResult(loss, torch.tensor([[True, False]]), {"loss": loss, **met}, {})

    def evaluate(self, objective: Any, net: nn.Module, episodes: Episode) -> TaskResult:
        raise NotImplementedError

    def log(self, values: dict[str, float], step: int) -> None:
        self.lines.append((step, values))

    def say(self, message: str) -> None:
        self.said.append(message)

    def validate(self) -> dict[str, float]:
        self.net.eval()
        i, self.validated = self.validated, self.validated + 1
        return {
            "accuracy": self.accuracies[min(i, len(self.accuracies) - 1)],
            "ci95": 0.1,
            "loss": self.val_loss[min(i, len(self.val_loss) - 1)],
        }

    def save(self, name: str, state: State) -> None:
        self.saved.append((name, state.step))
        self.weights += [float(p.detach().sum()) for p in self.net.parameters()]
        self.kept = State(**state.saved())

    def __call__(
        self,
        steps: int = 10,
        val_every: int = 4,
        log_every: int = 5,
        minutes: float | None = None,
        monitor: Literal["accuracy", "loss"] = "accuracy",
        patience: int | None = None,
        on_warning: Literal["save", "leave"] = "save",
    ) -> State:
        plan = Plan(steps, minutes, val_every, log_every, monitor, patience, on_warning)
        optimizer = SGD(self.lr, 0.0, False, 0.0).build(list(self.net.parameters()))
        outer = MetaOptimizer(optimizer, LRSchedule("constant", 1, 1.0, 0.0), Clip(None, None), steps)
        none = Batch(torch.empty(0), torch.empty(0), torch.empty(0))
        fit(
            self.net,
            lambda *_: pytest.fail("the engine's"),
            self,
            lambda step: Episode(none, none),
            outer,
            self.validate,
            self.save,
            self,
            plan,
            self.state,
        )
        return self.state

    def logged(self, tag: str) -> list[tuple[int, float]]:
        return [(step, values[tag]) for step, values in self.lines if tag in values]
