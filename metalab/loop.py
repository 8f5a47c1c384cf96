"""The training loop. It knows no data set, no algorithm and no Hydra."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from threading import current_thread, main_thread
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from metalab.errors import UserError
from metalab.interfaces import Engine, EpisodeSource, Objective, TaskResult


@dataclass
class State:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0  # finished meta-steps
    best: float | None = None  # the monitored value of best.pt
    best_accuracy: float | None = None
    stale: int = 0  # validations since
    seconds: float = 0.0  # of work so far, in this process and the ones before
    busy: float = 0.0  # seconds of the steps in the window
    window: list[Tensor] = field(default_factory=list)  # what was not logged yet

    def saved(self) -> dict[str, Any]:
        return asdict(self) | {"window": [row.cpu() for row in self.window]}


@dataclass(frozen=True)
class Plan:
    """How long to train, and how often to look."""

    steps: int
    minutes: float | None
    val_every: int
    log_every: int
    monitor: Literal["accuracy", "loss"]
    patience: int | None

    def better(self, values: dict[str, float], best: float | None) -> bool:
        new = values[self.monitor]
        return best is None or (new > best if self.monitor == "accuracy" else new < best)


class Reporter(Protocol):
    def log(self, values: dict[str, float], step: int) -> None: ...
    def say(self, message: str) -> None: ...


class Outer(Protocol):
    """The outer optimiser with its schedule and clipping."""

    def step(self, step: int) -> tuple[Tensor, float]:
        """Take the meta-step after `step` finished ones; return the gradient's norm and the learning rate."""
        ...


def fit(
    net: nn.Module,
    objective: Objective,
    engine: Engine,
    source: EpisodeSource,
    outer: Outer,
    validate: Callable[[], dict[str, float]],
    save: Callable[[str, State], None],
    report: Reporter,
    plan: Plan,
    state: State,
) -> State:
    """Train from state.step to plan.steps, or until time, patience or a signal ends it; return the final state.

    validate returns accuracy, ci95 and loss; save("best" | "last", state) writes a checkpoint. Raises UserError
    where a loss is not finite, and SystemExit with 128 + the signal's number after a SIGINT or SIGTERM was obeyed.
    """
    device = next(net.parameters()).device
    began, before = time.perf_counter(), state.seconds
    with _signals() as caught:
        while state.step < plan.steps:
            started = time.perf_counter()
            net.train()
            net.zero_grad(set_to_none=True)
            progress = torch.full((), state.step / plan.steps, device=device)
            result = engine.grad(objective, net, source(state.step), progress)
            norm, lr = outer.step(state.step)
            state.step += 1
            state.window.append(_row(result, norm))
            end = _ended(plan, state, before + time.perf_counter() - began)
            look = end is not None or state.step % plan.val_every == 0
            if look or caught or state.step % plan.log_every == 0:
                _check(state)  # the one synchronisation of a log
            state.busy += time.perf_counter() - started
            if end is not None or state.step % plan.log_every == 0:
                _log(state, lr, report)
            if look:
                end = _look(validate, save, report, plan, state) or end
            state.seconds = before + time.perf_counter() - began
            if look or caught:
                save("last", state)
            if end is not None:
                report.say(end)
                break
            if caught:
                report.say(f"stopped by {caught[0].name} after step {state.step}; last.pt is saved, resume goes on")
                raise SystemExit(128 + caught[0])
    return state


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and SIGTERM, so that the step under way ends first; a second SIGINT interrupts at once."""
    caught: list[signal.Signals] = []

    def handle(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    ours = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
    old = {number: signal.signal(number, handle) for number in ours}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _row(result: TaskResult, norm: Tensor) -> Tensor:
    shown = result.scalars["loss"].mean()
    return torch.stack([shown, result.correct.float().mean(), norm, result.loss.mean()]).detach()


def _check(state: State) -> None:
    """Raise UserError naming the first step of the window whose loss or gradient is not finite."""
    if not state.window:
        return
    state.window = list(torch.stack(state.window).cpu())
    for i, (shown, _, norm, loss) in enumerate(torch.stack(state.window).tolist()):
        if not all(map(math.isfinite, (shown, norm, loss))):
            step = state.step - len(state.window) + i + 1
            raise UserError(
                f"step {step}: the loss is {loss} and the norm of its gradient {norm}, which is not finite. "
                "The checkpoints from before are kept; try a lower optim.lr or algo.lr, or optim.clip_norm=10"
            )


def _log(state: State, lr: float, report: Reporter) -> None:
    loss, accuracy, norm, _ = torch.stack(state.window).double().mean(0).tolist()
    values = {"train/loss": loss, "train/accuracy": accuracy, "train/grad_norm": norm, "train/lr": lr}
    report.log(values | {"time/step_ms": 1000 * state.busy / len(state.window)}, state.step)
    state.window, state.busy = [], 0.0


def _ended(plan: Plan, state: State, seconds: float) -> str | None:
    if state.step >= plan.steps:
        return f"finished {plan.steps} steps"
    if plan.minutes is not None and seconds >= 60 * plan.minutes:
        return f"train.minutes={plan.minutes:g} are over after step {state.step} of {plan.steps}"
    return None


def _look(
    validate: Callable[[], dict[str, float]],
    save: Callable[[str, State], None],
    report: Reporter,
    plan: Plan,
    state: State,
) -> str | None:
    """Validate, save best.pt where it is one; say why training ends where patience is over."""
    values = validate()
    report.log({f"val/{name}": value for name, value in values.items()}, state.step)
    state.stale += 1
    if plan.better(values, state.best):
        state.best, state.best_accuracy, state.stale = values[plan.monitor], values["accuracy"], 0
        save("best", state)
    if plan.patience is not None and state.stale >= plan.patience:
        return (
            f"no better validation {plan.monitor} for train.patience={plan.patience} validations; "
            f"ends at step {state.step} of {plan.steps}"
        )
    return None
