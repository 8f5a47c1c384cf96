"""What became of a job that wrote nothing down, by its exit code."""

import signal
from pathlib import Path
from typing import Any

from metalab.cli.sweep_jobs import holds_run
from metalab.core.signals import STOPS, WARNINGS


def explain(code: int, command: str, folder: Path) -> dict[str, Any]:
    """Return the state and the message of a job.

    Args:
        code: exit code of its process; negative where a signal ended it, 128 + its number where it left because of one.
        command: train, eval, ...: of these a training alone goes on.
        folder: of the job.
    """
    number = -code if code < 0 else code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else None
    if name == "SIGKILL":
        return {"state": "failed", "message": "killed by SIGKILL (out of memory?)"}
    if name in (*STOPS, *WARNINGS):
        saved = "; it has saved, and resume goes on" if command == "train" and holds_run(folder) else ""
        return {"state": "stopped", "message": f"stopped by {name}{saved}"}
    return {"state": "failed", "message": f"its process ended with {name or f'exit code {code}'}"}
