"""Folders of runs: found by name, refused where another run is in them, and what is in them."""

import itertools
import logging
import os
from pathlib import Path

from metalab.core.errors import UserError

JOB = "job.json"  # in the folder of a sweep's job: what it is of the sweep, and what it came to
FILES = ("config.yaml", "run.json", "metrics.jsonl", "episode.png", "adaptation.png")  # beside the checkpoints

logger = logging.getLogger("metalab")
DEEPEST, MOST = 6, 20_000  # folders inside each other, and in all, that are searched for runs


def refuse_existing_run(out: Path) -> None:
    """Raise UserError where a new run would overwrite an earlier one's checkpoints and curves in out."""
    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            raise UserError(
                f"{out} already holds a run ({name}): go on with it, as metalab train resume={out}, "
                "or give the new run another folder, as hydra.run.dir=outputs/train/another"
            )
    if phases_in(out):
        raise UserError(
            f"{out} already holds a training in phases: go on with it, as metalab train resume={out}, or give the new "
            "run another folder, as hydra.run.dir=outputs/train/another"
        )


def refuse_generations(out: Path) -> None:
    """Raise UserError where a new run in out would hide the generations that are there."""
    if generations_in(out):
        raise UserError(
            f"{out} already holds generations (train.generations): go on with them, as metalab train resume={out}, or "
            "give the new run another folder, as hydra.run.dir=outputs/train/another"
        )


def refuse_folders(out: Path) -> None:
    """Raise UserError, before any work, where a folder stands in the place of a file that a run writes into out."""
    for name in (*FILES, "last.pt", "best.pt"):
        if (out / name).is_dir():
            raise UserError(
                f"{out / name} is a folder, and a run writes a file of that name: move it away, or give the run "
                "another folder, as hydra.run.dir=outputs/train/another"
            )


def checkpoint_in(folder: Path) -> Path:
    """Return the file from which a run goes on: last.pt, or best.pt where the run was killed before it wrote that."""
    last, best = folder / "last.pt", folder / "best.pt"
    return best if best.is_file() and not last.exists() else last


def phase_folder(out: Path, k: int) -> Path:
    """Return the folder of phase k of a training in phases."""
    return out / f"phase{k}"


def phases_in(folder: Path) -> list[Path]:
    """Return the folders of the phases of a training, in turn, begun or not; none where a folder is no such training's.

    All are there from the start, each with the settings of its training.
    """
    every = (phase_folder(folder, k) for k in itertools.count())
    return list(itertools.takewhile(lambda phase: (phase / "config.yaml").is_file(), every))


def find_phases(given: str) -> Path | None:
    """Return the folder of a training in phases that is to go on; None where what is given is another run, or none.

    "latest" is such a training where the run that saved last is a phase of it.
    """
    if given == "latest":
        runs = runs_below(Path("outputs/train"), ("last.pt", "best.pt"))
        return runs[0].parent if runs and runs[0] in phases_in(runs[0].parent) else None
    folder = Path(given)
    return folder if len(given) < 4096 and not (folder / "last.pt").is_file() and phases_in(folder) else None


def find_run(given: str | Path, holds: str = "best.pt", instead: str | None = None) -> Path:
    """Return a run's folder from its path, or, for "latest", the run below outputs/train that saved last.

    `holds` is the file that the folder must have, `instead` one that also does; a UserError lists the runs that have.
    """
    home, files = Path("outputs/train"), (holds,) if instead is None else (holds, instead)
    if str(given) == "latest":
        runs = runs_below(home, files)
        if not runs:
            raise UserError(f"no run in {home.absolute()} holds {holds}; train one: metalab train")
        return _whole(runs[0]) if instead else runs[0]
    folder = Path(given)
    if len(os.fsencode(folder)) > 4095 or any(len(os.fsencode(name)) > 255 for name in folder.parts):
        raise UserError(f"{str(folder)[:60]}... is longer than a path may be: there is no such folder")
    if any((folder / file).is_file() for file in files):
        return folder
    if inside := generations_in(folder, "*.pt" if instead else holds):
        return folder if instead else inside[-1]  # all of them go on; the last is evaluated
    phases = phases_in(folder)
    if done := [phase for phase in phases if any((phase / file).is_file() for file in files)]:
        logger.info(
            f"{folder} was trained in phases: {done[-1].name}, the last of {len(phases)} that is there, is taken"
        )
        return done[-1]
    if folder.is_file():
        problem = f"{folder} is a file; give the run's folder, {folder.parent}"
    elif not folder.exists():
        problem = f"there is no folder {folder} in {Path.cwd()}"
    elif (folder / "config.yaml").is_file():
        problem = f"{folder} holds no {holds} yet: a run saves it when it first validates"
    else:
        problem = f"{folder} is not a run: it holds no {holds}"
    runs = runs_below(folder, files) or runs_below(home, files)
    listed = "\n".join(f"  {run}" for run in runs[:10])
    raise UserError(
        f"{problem}\n" + (f"runs with {holds}, newest first:\n{listed}" if runs else "train one: metalab train")
    )


def generations_in(folder: Path, holds: str = "*.pt") -> list[Path]:
    """Return the generations in a folder of train.generations that hold such a file, in order."""
    found = {path.parent for path in folder.glob(f"generation*/{holds}") if path.parent.name[10:].isdecimal()}
    return sorted(found, key=lambda path: int(path.name[10:])) if (folder / "config.yaml").is_file() else []


def _whole(run: Path) -> Path:
    """Return the folder of all generations where a run is one of them, else the run."""
    return run.parent if run.name[10:].isdecimal() and run in generations_in(run.parent) else run


def trained_runs() -> list[Path]:
    """Return the folders of the runs below outputs/train that have a checkpoint to use, the newest first."""
    return runs_below(Path("outputs/train"), ("best.pt",))


def runs_below(folder: Path, files: tuple[str, ...]) -> list[Path]:
    """Return the folders below that hold one of the files, the one that was written last first.

    Where they are looked for in vain: not deeper than runs lie, and not in more than so many folders (run=/).
    """
    found: list[Path] = []
    for inside, below, names in itertools.islice(os.walk(folder), MOST):
        if len(Path(inside).relative_to(folder).parts) >= DEEPEST:
            below.clear()
        found += [Path(inside, name) for name in files if name in names]
    found.sort(key=lambda file: (file.stat().st_mtime_ns, str(file)), reverse=True)
    return list(dict.fromkeys(file.parent for file in found))
