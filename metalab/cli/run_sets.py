"""Several runs in one word: a pattern of folders, and the folder of a sweep."""

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from metalab.core.errors import UserError
from metalab.tracking.run_folder import find_run, generations_in, phases_in, runs_below

WEIGHTS = ("best.pt",)


def expand_runs(given: Iterable[str]) -> list[str]:
    """Return the folders of all runs that are named, each once, in the order of the words, then of their names.

    Args:
        given: of each word the folder of a run, `latest`, a folder with runs in it (a sweep's), or a pattern as a shell
            has it (`*`, `?`, `[ab]`, and `**` for any depth) of either.

    Raises:
        UserError: where a word names no run.
    """
    found: dict[Path, str] = {}
    for folder in (folder for word in given for folder in _runs(word)):
        found.setdefault(folder.resolve(), str(folder))
    return list(found.values())


def _runs(word: str) -> list[Path]:
    """Return the runs that one word names."""
    if word == "latest" or not word:
        return [find_run(word)] if word else []
    path = Path(word).expanduser()
    if path.exists() or not glob.has_magic(word):  # a folder may be called a [1]
        return _within(path) or [find_run(word)]  # which says what is wrong, and what runs there are
    runs = [run for match in sorted(glob.glob(str(path), recursive=True), key=_natural) for run in _within(Path(match))]
    if not runs:
        raise UserError(
            f"run={word}: no run matches the pattern in {Path.cwd()}; a run's folder holds best.pt, and lies below "
            "outputs/train where hydra.run.dir says nothing else"
        )
    return runs


def _within(folder: Path) -> list[Path]:
    """Return the folder where it is a run, else the runs in it, by name; of phases or generations the last alone."""
    if any((folder / name).is_file() for name in WEIGHTS):
        return [folder]
    if not folder.is_dir():
        return []
    trainings = dict.fromkeys(_training_of(run) for run in runs_below(folder, WEIGHTS))
    return sorted(map(find_run, trainings), key=lambda run: _natural(str(run)))


def _training_of(run: Path) -> Path:
    """Return the folder of the training whose phase or generation a run is, else the run."""
    return run.parent if run in (*phases_in(run.parent), *generations_in(run.parent)) else run


def _natural(path: str) -> list[tuple[int, str]]:
    """Return what sorts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]
