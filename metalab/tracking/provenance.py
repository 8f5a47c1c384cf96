"""Say what made a run: command, versions, processor, git commit, size and time; no host's or user's name."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalab import __version__
from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.distributed.processes import Processes, processes

if TYPE_CHECKING:
    import torch

COMMAND = "METALAB_COMMAND"  # the words that were typed, for the jobs of a sweep that run in other processes
ENDS = ("finished", "failed", "boost", "pruned")  # what is there where it has happened
PACKAGES = ("torchvision", "numpy", "hydra-core", "learn2learn")


def describe(parameters: int, device: "str | torch.device" = "cpu") -> dict[str, Any]:
    """Return what makes a run that starts now, with a net of so many parameters, on cpu, cuda or cuda:N."""
    import torch

    count = processes().count
    return {
        "command": started_by(processes()) + command(json.loads(os.environ.get(COMMAND, "null")) or sys.argv),
        "started": now(),
        "parameters": parameters,
        "versions": versions(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        **({"processes": count} if count > 1 else {}),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if str(device).startswith("cuda") else None,
        "git": git(Path(__file__).resolve().parents[2]),
    }


def write(out: Path, **more: Any) -> dict[str, Any]:
    """Add to out/run.json, and return all that it holds.

    A key that is there is replaced (`finished`, `seconds`), or, where it becomes None, taken away, but `resumes` is a
    list, and grows. UserError: the file is there and is not JSON as a run writes it.
    """
    path = out / "run.json"
    record = read(out)
    if "resumes" in more:
        more["resumes"] = [*record.get("resumes", []), *more["resumes"]]
    record |= more
    record = {key: value for key, value in record.items() if value is not None or key not in more or key not in ENDS}
    new = out / ".run.json.new"
    with disk_errors(path):
        new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        os.replace(new, path)
    return record


def read(out: Path) -> dict[str, Any]:
    """Return what out/run.json holds, nothing where there is none; UserError where it is not as a run writes it."""
    path = out / "run.json"
    return _read(path) if path.exists() else {}


def versions() -> dict[str, str | None]:
    """Return the version of everything that a number depends on; None for a package that is not installed."""
    import torch

    names = {name: _version(name) for name in PACKAGES}
    return {"metalab": __version__, "python": platform.python_version(), "torch": torch.__version__, **names}


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def command(argv: list[str]) -> str:
    """Return the command line as a shell takes it, the home folder written as ~ (its path names the user)."""
    line = shlex.join([Path(argv[0]).name, *argv[1:]])
    try:
        home = Path.home()
    except RuntimeError:  # a container's user may have none
        return line
    return line.replace(str(home), "~") if len(home.parts) > 1 else line


def started_by(own: Processes) -> str:
    """Return what stands before the command of a training in several processes; nothing where there is one."""
    nodes = own.count // own.local_count
    return "" if own.count == 1 else f"torchrun --nnodes={nodes} --nproc-per-node={own.local_count} -m metalab: "


def processor() -> str:
    """Return the CPU's name and its number of logical cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} logical cores"


def git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether files differ from it; None where folder is not a checkout's root.

    A wheel installed within somebody's own repository is not a checkout of metalab.
    """
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain")
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git here, or no commit, or not our repository
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, check=True, encoding="utf-8", errors="replace"
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    import importlib.metadata  # a third of the time that --help takes

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: expected JSON, found an error in line {error.lineno}; mend or delete it") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found something else; mend or delete it") from error
    if not isinstance(record, dict) or not isinstance(record.get("resumes", []), list):
        raise UserError(f"{path}: expected a JSON object, in which `resumes` is a list; mend or delete it")
    return record
