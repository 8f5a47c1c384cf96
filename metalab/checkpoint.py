"""One self-contained file per checkpoint, written to a temporary name and renamed."""

import os
from pathlib import Path
from typing import Any

import torch

from metalab.errors import UserError

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
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; tensors and plain Python values only, so a foreign file runs no code."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; a run has best.pt and last.pt after its first validation")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint that can be read: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a metalab checkpoint of format {FORMAT}; train again with this version")
    return state


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators: dropout and the like draw from them."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what random_state returned; a device that is not here now is passed over."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
