"""What a job that runs beside others is given of the processor and of the GPUs."""

import os

import pytest
import torch
from omegaconf import OmegaConf

from metalab.cli import job_environment
from metalab.cli.sweeps import Sweep
from metalab.core.device import TURN, resolve_device

LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
SLURM = LOCAL.replace("LocalLauncher", "SlurmLauncher")


@pytest.fixture
def environment(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    def made(begins=2, n_jobs=1, **launcher):
        cfg = OmegaConf.create({"launcher": launcher, "sweeper": {"n_jobs": n_jobs}})
        monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", staticmethod(lambda: cfg))
        return job_environment.environment(5, Sweep("id", "train", [["seed=1"]] * 30, begins=begins))

    return made


@pytest.mark.parametrize(
    ("launcher", "threads"),
    [
        ({"_target_": LOCAL}, "4"),  # two jobs that begin at once, of 8 cores
        ({"_target_": LOCAL, "begins": 30}, "1"),
        ({"_target_": LOCAL, "begins": None, "n_jobs": 4}, "2"),  # a search chooses four together
        ({"_target_": LOCAL, "begins": None, "n_jobs": -1}, "1"),
        ({"_target_": LOCAL, "cpus_per_task": 3}, "3"),
        ({"_target_": SLURM, "cpus_per_task": 6}, "6"),
        ({"_target_": SLURM}, None),  # Slurm binds the job to its cores, which torch counts
        ({"_target_": "a.launcher"}, None),
    ],
)
def test_jobs_share_the_cores(environment, launcher, threads):
    assert environment(**launcher).get("OMP_NUM_THREADS") == threads


def test_what_the_user_or_the_launcher_set_stays(environment, monkeypatch):
    made = environment(_target_=LOCAL)
    assert (made["OMP_WAIT_POLICY"], made["GOMP_SPINCOUNT"], made[TURN]) == ("PASSIVE", "0", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    made = environment(_target_=LOCAL, cpus_per_task=2)
    assert (made["OMP_NUM_THREADS"], made["OMP_WAIT_POLICY"]) == ("7", "ACTIVE")


@pytest.mark.parametrize(
    ("count", "turn", "device"),
    [(3, "0", "cuda:0"), (3, "4", "cuda:1"), (3, None, "cuda"), (1, "4", "cuda"), (0, "4", "cpu"), (3, "x", "cuda")],
)
def test_auto_takes_the_gpus_in_turn(monkeypatch, count, turn, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    if turn is None:
        monkeypatch.delenv(TURN, raising=False)
    else:
        monkeypatch.setenv(TURN, turn)
    assert resolve_device("auto") == torch.device(device)
    assert resolve_device("cpu") == torch.device("cpu")  # what is typed is taken
