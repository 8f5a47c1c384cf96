"""Several processes of one training, as torchrun starts them, without the second that torchrun takes to start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny_data"


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the environment of a process of a training on this machine."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    path = os.pathsep.join([str(ROOT), str(TINY)])
    return {**os.environ, "PYTHONPATH": path, **{key: str(value) for key, value in own.items()}}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def started(count: int, *words: str, cwd: Path) -> list[subprocess.Popen[str]]:
    """Start `python WORDS` in so many processes that are one training."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(rank, count, port),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes: list[subprocess.Popen[str]], seconds: float = 240) -> list[tuple[int, str]]:
    """Return the exit code and the output of each process; those that take longer are killed."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]
