"""torchrun --nproc-per-node=2 -m metalab train: stopped, resumed, killed, refused; one voice throughout."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metalab.cli import torchrun
from metalab.core.errors import UserError
from metalab.distributed.device import own_device
from metalab.distributed.processes import Processes, is_main, processes, several, share
from tests.conftest import SMALL
from tests.distributed.launch import ROOT, TINY, environment, free_port

SECOND = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SECOND |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def second(monkeypatch) -> None:
    """Be the second of two processes."""
    for key, value in SECOND.items():
        monkeypatch.setenv(key, value)


def test_one_process_is_the_main_one_and_has_all_tasks(monkeypatch):
    assert processes() == Processes(0, 1, 0, 1)
    assert is_main()
    assert not several()
    assert list(range(7))[share(7)] == list(range(7))
    monkeypatch.setenv("WORLD_SIZE", "2")  # some clusters set it for every job
    assert not several()


@pytest.mark.parametrize(("tasks", "count"), [(3, 2), (8, 4), (7, 3), (64, 64)])
def test_the_shares_of_the_processes_are_all_tasks_and_differ_by_one_at_most(monkeypatch, tasks, count):
    for key, value in (SECOND | {"WORLD_SIZE": str(count)}).items():
        monkeypatch.setenv(key, value)
    found = []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        found.append(list(range(tasks))[share(tasks)])
    assert [task for each in found for task in each] == list(range(tasks))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_other_processes_have_hydra_write_nothing(second):
    words = torchrun.muted(["algo=maml", "hydra.run.dir=there"])
    assert words == ["algo=maml", *torchrun.MUTE]


@pytest.mark.parametrize(
    ("command", "sweep", "said"),
    [
        ("eval", "", "metalab eval runs in one process"),
        ("train", "-m", "-m is a sweep"),
        ("train", "resume=swept", "resume=swept is a sweep"),
    ],
)
def test_what_several_processes_do_not_share_is_refused(second, command, sweep, said):
    with pytest.raises(UserError, match=said):
        torchrun.refuse(command, sweep)


def test_one_gpu_for_all_is_refused(second, monkeypatch):
    monkeypatch.setattr("metalab.distributed.device.resolve_device", lambda name: torch.device(name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("cuda") == torch.device("cuda", 1)
    assert own_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="type device=cuda"):
        own_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--nproc-per-node=1"):
        own_device("cuda")


def started(cwd: Path, *words: str, count: int = 2) -> "subprocess.Popen[str]":
    """Start metalab train under torchrun, on the tiny data."""
    env = {key: value for key, value in environment(0, count, 1).items() if key not in SECOND}
    run = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={free_port()}"]
    alone = run if count > 1 else [sys.executable]
    given = ["-m", "metalab", "train", "--config-dir", str(TINY), *SMALL, *words]
    return subprocess.Popen(
        [*alone, *given], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Return the processes that torchrun has started, by their rank."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8")
    return [int(pid) for pid in found.split()]


def wait_for(path: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.1)


def logged(out: Path) -> list[dict[str, float]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time/step_ms"} for line in lines]


@pytest.mark.slow
def test_a_mistake_is_told_once_and_nobody_leaves_files_but_rank_0(tmp_path):
    run = started(tmp_path, "train.meta_batch=1")
    out, err = run.communicate(timeout=120)
    assert run.returncode == 1
    assert (out + err).count("metalab: a meta-step has 1 episode, and 2 processes share them") == 1
    assert "train.meta_batch=2" in err
    assert "metalab/cli" not in err
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert len(list(tmp_path.glob("outputs/train/*/*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_and_gone_on_with_by_one_process(tmp_path, number):
    words = ("algo=maml", "train.meta_batch=3", "train.steps=100000", "train.val_every=2", "hydra.run.dir=run")
    run = started(tmp_path, *words)
    wait_for(tmp_path / "run" / "last.pt")
    ranks = children(run)
    run.send_signal(number)
    out, err = run.communicate(timeout=120)
    assert run.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert out.count(f"stopped by {number.name}") == 1, out
    assert "metalab/" not in err, err
    step = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["state"]["step"]
    steps = f"train.steps={step + 3}"
    for count, more in ((1, steps), (2, f"train.steps={step + 6}")):
        again = started(tmp_path, "resume=run", more, count=count)
        assert again.wait(timeout=240) == 0, again.communicate()
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["state"]["step"] == step + 6
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_all_with_one_message(tmp_path, rank):
    run = started(tmp_path, "algo=maml", "train.meta_batch=3", "train.steps=100000", "hydra.run.dir=run")
    wait_for(tmp_path / "run" / "last.pt")
    ranks = children(run)
    os.kill(ranks[rank], signal.SIGKILL)
    began = time.monotonic()
    out, err = run.communicate(timeout=120)
    assert run.returncode == 1
    assert time.monotonic() - began < 60
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    told = (out + err).count("another process of this training is gone")
    assert told == 1 if rank else told <= 1  # torchrun may end the others first
    assert "metalab/" not in err.replace(str(ROOT), ""), err
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["state"]["step"] > 0
