"""The environment of a job that runs beside others: its share of the processor, and its turn among the GPUs."""

import os
from collections.abc import Mapping

from hydra.core.hydra_config import HydraConfig

from metalab.cli.sweeps import Sweep
from metalab.core.device import TURN

THREADS = "OMP_NUM_THREADS"  # torch reads it
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # a thread that waits leaves its core to another job


def environment(number: int, sweep: Sweep | None) -> dict[str, str]:
    """Return the environment of job `number`; what the user or the launcher has set for it stays.

    joblib and Ray set the number of threads for their workers: the cores by n_jobs, num_cpus of a task. submitit sets
    none: it is cpus_per_task, else, where all jobs of a sweep begin at once on this machine, their share of its cores.
    """
    found = {**WAITING, **os.environ, TURN: str(number)}
    if THREADS not in found and (threads := _threads(sweep)) is not None:
        found[THREADS] = str(threads)
    return found


def _threads(sweep: Sweep | None) -> int | None:
    launcher: Mapping[str, object] = HydraConfig.get().launcher
    given = launcher.get("cpus_per_task")
    if isinstance(given, int):
        return given
    if not str(launcher.get("_target_")).endswith(".LocalLauncher"):
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, _together(sweep, cores)))


def _together(sweep: Sweep | None, cores: int) -> int:
    """Return how many jobs are launched at once: all that the command begins, or what a search asks for."""
    if sweep is not None and sweep.begins is not None:
        return sweep.begins
    asked = HydraConfig.get().sweeper.get("n_jobs", 1)
    return asked if isinstance(asked, int) and asked > 0 else cores  # -1: as many as there are cores
