"""What a search found: a table of its trials, the best settings as a command line, and Optuna's pictures."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from metalab.cli.job_records import jobs_below
from metalab.cli.search import command
from metalab.cli.search.going_on import KILLED
from metalab.core.errors import UserError
from metalab.core.optional_output import optional_output
from metalab.tracking import provenance

SHOWN = 10  # trials in the table on the screen, the best ones


@dataclass(frozen=True)
class Trial:
    """One line of trials.csv."""

    number: int
    state: str  # complete, pruned, failed, killed (its values were asked again) or running
    accuracy: float | None  # best validation accuracy, a fraction
    seconds: float | None
    params: dict[str, Any]
    folder: Path
    message: str = ""


def write(study: optuna.Study, folder: Path, config: DictConfig, words: Sequence[str]) -> None:
    """Write trials.csv, best.sh and the pictures into the search's folder, and show the best trials.

    Args:
        study: with all its trials.
        folder: of the search, in which each trial has its own, by its number.
        config: of the sweep, as Hydra composed it.
        words: that have one value, of the command line and of the search's YAML.

    Raises:
        UserError: where no trial came to its end.
    """
    trials = read_trials(study, folder)
    keys = list(dict.fromkeys(key for trial in trials for key in sorted(trial.params)))
    _write_csv(folder / "trials.csv", trials, keys)
    if all(trial.accuracy is None for trial in trials):
        raise UserError(f"no trial of the search came to its end: {folder / 'trials.csv'} says why")
    best, made, line = study.best_trial, list[str](), None
    with optional_output("best.sh"):
        line = command.best_command(config, words, best.params)
        (folder / "best.sh").write_text(f"{line}\n", encoding="utf-8")
    with optional_output("the pictures of the search"):
        from metalab.cli.search.figures import save_figures

        made = save_figures(study, folder)
    console = Console(highlight=False, markup=False, emoji=False)  # a setting may be a list: [l2]
    console.print(_table(trials, keys))
    counts = {state: sum(each.state == state for each in trials) for state in dict.fromkeys(t.state for t in trials)}
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(f"{len(trials)} trials: {told}; {', '.join([str(folder / 'trials.csv'), *made])}", soft_wrap=True)
    accuracy = f"{100 * float(best.value or 0):.2f} %"
    again = "" if line is None else "; again, alone:"
    console.print(f"best: trial {best.number}, validation accuracy {accuracy}, which chose it{again}", soft_wrap=True)
    if line is not None:
        console.print(line, soft_wrap=True)


def read_trials(study: optuna.Study, folder: Path) -> list[Trial]:
    """Return the trials that were begun, by number, with what their folders say of how they ended."""
    killed = study.user_attrs.get(KILLED, [])
    jobs = {job.number: (Path(job.folder), job.message) for job in jobs_below(folder)}
    begun = (each for each in study.get_trials(deepcopy=False) if each.state != TrialState.WAITING)
    return [_trial(t, t.number in killed, *jobs.get(t.number, (folder / str(t.number), ""))) for t in begun]


def _write_csv(path: Path, trials: Sequence[Trial], keys: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("number", "state", "accuracy", "seconds", *keys, "folder", "message"))
        for trial in trials:
            values = (trial.params.get(key, "") for key in keys)
            rows.writerow(
                (trial.number, trial.state, trial.accuracy, trial.seconds, *values, trial.folder, trial.message)
            )


def _trial(trial: FrozenTrial, killed: bool, folder: Path, message: str) -> Trial:
    record = dict[str, Any]()
    with suppress(OSError, UserError):
        record = provenance.read(folder)
    seconds = None if trial.duration is None or killed else round(trial.duration.total_seconds(), 1)
    if trial.state == TrialState.COMPLETE:
        pruned = record.get("pruned")
        state, message = ("pruned", pruned) if pruned else ("complete", "")
        return Trial(trial.number, state, trial.value, seconds, trial.params, folder, message)
    state = "killed" if killed else "failed" if trial.state == TrialState.FAIL else "running"
    return Trial(trial.number, state, None, seconds, trial.params, folder, message)


def _table(trials: Sequence[Trial], keys: Sequence[str]) -> Table:
    """Return the table of the best trials, the best one first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("trial", "val, %", *keys, ""):
        table.add_column(heading, justify="left" if heading == "" else "right", overflow="fold")
    ended = sorted((each for each in trials if each.accuracy is not None), key=lambda each: -(each.accuracy or 0))
    for each in ended[:SHOWN]:
        values = [_shown(each.params.get(key, "")) for key in keys]
        state = "" if each.state == "complete" else each.state
        table.add_row(str(each.number), f"{100 * (each.accuracy or 0):.2f}", *values, state)
    return table


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
