"""The training loop. It knows no data set, no algorithm and no Hydra."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.core.interfaces import Engine, EpisodeSource, Objective
from metalab.core.signals import WARNINGS, Caught, deferred_signals
from metalab.distributed.agreement import agreed
from metalab.tracking.training_state import State
from metalab.training.kept_checkpoints import checkpoint_name

RESCUE = "The checkpoints from before are kept; try a lower optim.lr or algo.lr, or optim.clip_norm=10"


@dataclass(frozen=True)
class Plan:
    """How long to train, and how often to look."""

    steps: int
    minutes: float | None
    val_every: int
    log_every: int
    monitor: Literal["accuracy", "loss"]
    patience: int | None
    on_warning: Literal["save", "leave"] = "save"  # at SIGUSR1 or SIGUSR2
    snapshots: tuple[int, ...] = ()  # finished meta-steps at which a snapshot is kept
    keep_best: int = 1  # how many of the best checkpoints are kept
    prune: Callable[[State], str | None] = lambda state: None  # says after a validation why the run is hopeless

    def better(self, values: dict[str, float], best: float | None) -> bool:
        """Whether the monitored value is better than the best so far; nan, which a loss may be, is the worst."""
        new = values[self.monitor]
        if best is None or math.isnan(new):
            return best is None
        return math.isnan(best) or (new > best if self.monitor == "accuracy" else new < best)

    def place(self, values: dict[str, float], state: State) -> int | None:
        """Return where the checkpoint of these values stands among the best ones, 0 the best; None: it is not kept."""
        place = next((i for i, (best, _) in enumerate(state.kept) if self.better(values, best)), len(state.kept))
        return place if place < self.keep_best else None


class Reporter(Protocol):
    def log(self, values: dict[str, float], step: int) -> None: ...
    def say(self, message: str) -> None: ...


class MetaOptimizer(Protocol):
    """The outer optimizer with its schedule and clipping."""

    def step(self, step: int) -> tuple[Tensor, float]:
        """Take the meta-step after `step` finished ones; return the gradient's norm and the learning rate."""
        ...


def fit(
    net: nn.Module,
    objective: Objective,
    engine: Engine,
    source: EpisodeSource,
    outer: MetaOptimizer,
    validate: Callable[[], dict[str, float]],
    save: Callable[[str, State], None],
    report: Reporter,
    plan: Plan,
    state: State,
) -> None:
    """Train from state.step to plan.steps, or until time, patience or a signal ends it; state is where it stands.

    validate returns accuracy, ci95 and loss; save(NAME, state) writes a checkpoint: best, best2, ..., last, snapshot1,
    .... Raises UserError where a loss or a weight is not finite, and SystemExit with 128 + the signal's number when a
    signal is obeyed.
    """
    began = time.perf_counter() - state.seconds
    with deferred_signals() as caught:
        while state.step < plan.steps:
            started = time.perf_counter()
            lr = _step(net, objective, engine, source, outer, plan, state)
            state.seconds = time.perf_counter() - began
            end, stop, warned = agreed(stop_reason(plan, state), *_told(caught, plan))  # what comes later: next step
            look, log = (end is not None or state.step % n == 0 for n in (plan.val_every, plan.log_every))
            look = look or state.step in plan.snapshots
            rows = _checked(state) if look or log or stop or warned else None  # the one synchronisation of a log
            state.busy += time.perf_counter() - started
            if rows is not None and log:
                _log(state, rows, lr, report)
            if look:
                _validate(net, validate, save, report, plan, state)
                state.seconds = time.perf_counter() - began
                end, *_ = agreed(end or stop_reason(plan, state) or plan.prune(state))
            elif stop or warned:
                _check_weights(net, state.step)
            if look or stop or warned:
                save("last", state)
            if end is not None:
                report.say(end)
                break
            _obey(stop, warned, caught, report, state)


def _obey(stop: Signals | None, warned: Signals | None, caught: Caught, report: Reporter, state: State) -> None:
    """Leave with the code of the signal that stops the run, or go on; what handled a warning before hears of it."""
    if stop and stop.name in WARNINGS:
        caught.pass_on(stop)
    if stop:
        report.say(f"stopped by {stop.name} after step {state.step}; last.pt is saved, resume goes on")
        raise SystemExit(128 + stop)
    if warned:
        report.say(f"{warned.name} after step {state.step}: last.pt is saved, the training goes on")
        caught.pass_on(warned)  # as a cluster's, which requeues what is saved now


def _told(caught: list[Signals], plan: Plan) -> tuple[Signals | None, Signals | None]:
    """Return the first signal that stops the run, and the first that has it saved, which is then forgotten."""
    stop, warned = (next((s for s in caught if (s.name in WARNINGS) == one), None) for one in (False, True))
    if warned and plan.on_warning == "leave":
        return stop or warned, None
    for signal in [each for each in caught if each.name in WARNINGS]:
        caught.remove(signal)  # one by one, as another may come just now
    return stop, warned


def _step(
    net: nn.Module,
    objective: Objective,
    engine: Engine,
    source: EpisodeSource,
    outer: MetaOptimizer,
    plan: Plan,
    state: State,
) -> float:
    """Take one meta-step, put what it measured into the window, and return its learning rate."""
    net.train()
    net.zero_grad(set_to_none=True)
    progress = torch.full((), state.step / plan.steps, device=next(net.parameters()).device)
    result = engine.grad(objective, net, source(state.step), progress)
    norm, lr = outer.step(state.step)
    state.step += 1
    shown = result.scalars["loss"].mean()
    row = [shown, result.correct.float().mean(), norm, result.loss.mean()]
    row += [result.scalars["zero_gradients"].mean()] if "zero_gradients" in result.scalars else []
    state.window.append(torch.stack(row).detach())
    return lr


def stop_reason(plan: Plan, state: State) -> str | None:
    """Say why a run ends where it stands, or return None where it goes on."""
    if state.step >= plan.steps:
        return f"finished {plan.steps} steps"
    if plan.minutes is not None and state.seconds >= 60 * plan.minutes:
        return f"train.minutes={plan.minutes:g} are over after step {state.step} of {plan.steps}"
    if plan.patience is not None and state.stale >= plan.patience:
        return (
            f"no better validation {plan.monitor} for train.patience={plan.patience} validations; "
            f"ends at step {state.step} of {plan.steps}"
        )
    return None


def _checked(state: State) -> Tensor:
    """Return the window on the CPU; raise UserError naming its first step whose loss or gradient is not finite."""
    rows = nn.utils.rnn.pad_sequence(state.window, batch_first=True, padding_value=math.nan).cpu()  # older: shorter
    for i, (shown, _, norm, loss, *_) in enumerate(rows.tolist()):
        if not all(map(math.isfinite, (shown, norm, loss))):
            step = state.step - len(rows) + i + 1
            raise UserError(
                f"step {step}: the loss is {loss} and the norm of its gradient {norm}, which is not finite. {RESCUE}"
            )
    return rows


def _check_weights(net: nn.Module, step: int) -> None:
    """Raise UserError where what would be saved is not finite: the last meta-step can do that to a finite loss."""
    values = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
    bad = [name for name, ok in zip(values, finite, strict=True) if not ok]
    if bad:
        raise UserError(f"step {step}: it made {', '.join(bad[:3])} of the net not finite. {RESCUE}")


def _log(state: State, rows: Tensor, lr: float, report: Reporter) -> None:
    loss, accuracy, norm, _, *zeros = rows.double().nanmean(0).tolist()
    values = {"train/loss": loss, "train/accuracy": accuracy, "train/grad_norm": norm, "train/lr": lr}
    if zeros:
        values["train/zero_gradients"] = zeros[0]
    report.log(values | {"time/step_ms": 1000 * state.busy / len(rows)}, state.step)
    state.window, state.busy = [], 0.0


def _validate(
    net: nn.Module,
    validate: Callable[[], dict[str, float]],
    save: Callable[[str, State], None],
    report: Reporter,
    plan: Plan,
    state: State,
) -> None:
    """Validate, and save best.pt, or another of the best, where it is one, and the snapshot of this step, if any."""
    values = validate()
    _check_weights(net, state.step)  # after it has written the running statistics
    better = plan.better(values, state.best)
    state.stale += 1
    if better:
        state.best, state.best_accuracy, state.stale = values[plan.monitor], values["accuracy"], 0
    shown = values | {"best_accuracy": state.best_accuracy or 0.0}  # whose last value TensorBoard's HParams table has
    report.log({f"val/{name}": value for name, value in shown.items()}, state.step)
    if better and plan.keep_best == 1:
        save("best", state)
    if plan.keep_best > 1 and (place := plan.place(values, state)) is not None:
        state.kept.insert(place, (values[plan.monitor], state.step))
        del state.kept[plan.keep_best :]
        save(checkpoint_name(place), state)
    if state.step in plan.snapshots:
        save(f"snapshot{plan.snapshots.index(state.step) + 1}", state)
