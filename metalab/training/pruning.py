"""A run of a sweep that others have left behind ends early, by a median rule like Vizier's (Golovin et al. 2017)."""

import json
import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from metalab.config.experiment import ExperimentConfig
from metalab.config.schema import Train
from metalab.core.errors import UserError
from metalab.tracking import provenance
from metalab.tracking.run_folder import JOB
from metalab.tracking.training_state import State

logger = logging.getLogger("metalab")


@dataclass
class MedianRule:
    """Says of a run whether its best validation is below the median of its sweep's at the same step.

    Compared with are the runs that have ended, early or not, and validated at that very step; of each the best
    value up to there.
    """

    out: Path  # the run's folder; the sweep's others lie beside it
    runs: int | None  # how many others there must be; None: the rule says nothing
    warmup: int  # meta-steps before which it says nothing
    monitor: Literal["accuracy", "loss"]
    said: str | None = None  # why the run is hopeless, once it is

    def __call__(self, state: State) -> str | None:
        """Return why the run that stands at state is hopeless; None where it is not."""
        if self.runs is None or state.step < self.warmup or state.best is None or not (self.out / JOB).is_file():
            return None
        found = [best_at(run, state.step, self.monitor) for run in _ended(self.out)]
        others = [value for value in found if value is not None]
        if len(others) < self.runs:
            return None
        middle = median(others)
        low = state.best < middle if self.monitor == "accuracy" else not state.best <= middle  # nan, too
        if low:
            self.said = (
                f"pruned at step {state.step}: the best validation {self.monitor} so far, {_shown(state.best, self)}, "
                f"is {'below' if self.monitor == 'accuracy' else 'above'} {_shown(middle, self)}, the median of "
                f"{len(others)} other runs at this step (train.prune_after={self.runs}; null goes on)"
            )
        return self.said if low else None


def median_rule(train: Train, out: Path) -> MedianRule:
    """Return the rule that a training's settings ask for, of the run in out."""
    return MedianRule(out, train.prune_after, train.prune_warmup, train.monitor)


def warn_of_parts(config: ExperimentConfig) -> None:
    """Say that the rule, which compares trainings, ends none that is made of several; each of them is none's."""
    t = config.train
    parts = {"train.phases": t.phases is not None, "train.generations": t.generations > 1}
    asked = [key for key, given in {**parts, "eval.folds": config.eval.folds is not None}.items() if given]
    if t.prune_after is not None and asked:
        logger.warning(
            f"train.prune_after={t.prune_after} ends no run with {asked[0]}, which is several trainings: each goes to "
            "its end"
        )


def best_at(run: Path, step: int, monitor: Literal["accuracy", "loss"]) -> float | None:
    """Return a run's best validation value up to a step at which it validated; None where it did not, or has none."""
    values, here = list[float](), False
    with suppress(OSError):
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            if f'"val/{monitor}"' in line:
                row = json.loads(line)
                here |= row["step"] == step
                value = row[f"val/{monitor}"]
                values += [value] if row["step"] <= step and value is not None and math.isfinite(value) else []
    return (max if monitor == "accuracy" else min)(values) if here and values else None


def _ended(out: Path) -> list[Path]:
    """Return the folders beside a run's whose runs have ended without a mistake."""
    found = list[Path]()
    for job in sorted(out.parent.glob(f"*/{JOB}")):
        with suppress(OSError, UserError):
            if job.parent.name != out.name and provenance.read(job.parent).get("finished"):
                found.append(job.parent)
    return found


def _shown(value: float, rule: MedianRule) -> str:
    return f"{100 * value:.2f} %" if rule.monitor == "accuracy" else f"{value:.4g}"
