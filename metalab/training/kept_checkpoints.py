"""train.keep_best: the best checkpoints of a run, best.pt, best2.pt, ..., in their order (MAML++'s ensemble)."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from metalab.core.disk import disk_errors
from metalab.tracking import checkpoint
from metalab.tracking.training_state import State

NAME = re.compile(r"best\d*")


def checkpoint_name(place: int) -> str:
    """Return the name of the checkpoint at a place, 0 the best: best, best2, best3, ..."""
    return "best" if place == 0 else f"best{place + 1}"


def keeping(save: Callable[[str, State], None], out: Path) -> Callable[[str, State], None]:
    """Return what saves as `save` does, and before one of the best moves those behind it one place on.

    Which file holds which step is read from the files: a run that was killed between two of them, and is gone on with
    from before, comes to the same set.
    """

    def saved(name: str, state: State) -> None:
        if NAME.fullmatch(name):
            _make_room(out, name, [step for _, step in state.kept])
        save(name, state)

    return saved


def _make_room(out: Path, name: str, steps: list[int]) -> None:
    """Bring each kept step but that of `name` into the file of its place; no file is missing meanwhile."""
    there = {path.name: _step(path) for path in out.glob("best*.pt") if NAME.fullmatch(path.stem)}
    for place in reversed(range(len(steps))):  # the last first, so that none is overwritten before it was moved
        file = f"{checkpoint_name(place)}.pt"
        if file == f"{name}.pt" or there.get(file) == steps[place]:
            continue
        source = next((other for other, step in there.items() if step == steps[place]), None)
        if source is None:
            continue  # it was deleted by hand
        temporary = out / f".{file}.{os.getpid()}.tmp"
        with disk_errors(out / file):
            shutil.copyfile(out / source, temporary)
            os.replace(temporary, out / file)
        there[file] = steps[place]


def _step(path: Path) -> int:
    return checkpoint.load(path)["state"]["step"]
