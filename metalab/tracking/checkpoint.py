"""One self-contained file per checkpoint, written to a temporary name and renamed."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from metalab import __version__
from metalab.core.errors import UserError

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that path holds either the old file or all of the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # a full disk is either, by who notices first
        if not path.parent.is_dir():
            raise UserError(f"{path} cannot be written: the folder {path.parent} was moved or deleted") from error
        free = shutil.disk_usage(path.parent).free
        raise UserError(
            f"{path} cannot be written ({str(error).splitlines()[0]}; {free / 1e6:,.0f} MB are free there). What was "
            "saved before is kept: make room and go on with resume="
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what a process that was killed while it saved has left behind; no other may be saving there."""
    for name in ("best*.pt", "last.pt", "snapshot*.pt"):
        for file in folder.glob(f".{name}.*.tmp"):
            file.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; tensors and plain Python values only, so a foreign file runs no code."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; a run has best.pt and last.pt after its first validation")
    try:
        _refuse_packed(path)
        state = _own(torch.load(str(path), map_location="cpu", weights_only=True, mmap=True), {})
    except Exception as error:  # whatever unpickling strange bytes may raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} is not a checkpoint that can be read: its {path.stat().st_size:,} bytes are cut short, damaged or "
            f"of something else ({why}). Give another run, or train again"
        ) from error
    given = state.get("format") if isinstance(state, dict) else None
    if type(given) is not int or given != FORMAT:
        raise UserError(
            f"{path} is a checkpoint of format {given}, metalab {__version__} reads format {FORMAT}: "
            "train again, or use the version that wrote it"
            if isinstance(given, int)
            else f"{path} is not a checkpoint of metalab: give a run's folder, as run=latest"
        )
    return state


def _refuse_packed(path: Path) -> None:
    """Raise ValueError where unpacking a file would take more memory than the file has bytes: torch packs nothing."""
    with zipfile.ZipFile(path) as held:
        records = held.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its parts are compressed")
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise ValueError("its parts overlap")


def _own(value: Any, done: dict[int, Any]) -> Any:
    """Return what was loaded with tensors of its own in the place of views of the file, where they are whole.

    One that declares more numbers than the file holds stays as it is, for the schema to refuse. done: what was met
    already, by its id.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu":
        whole = value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        done[id(value)] = value.clone() if whole else value
    elif isinstance(value, dict):
        made = done[id(value)] = {}
        made.update((key, _own(each, done)) for key, each in value.items())
    elif isinstance(value, list):
        made = done[id(value)] = []
        made.extend(_own(each, done) for each in value)
    return done.get(id(value), value)


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators: dropout and the like draw from them."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what random_state returned; a device that is not here now is passed over."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
