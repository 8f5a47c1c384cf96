"""Sweeps under submitit's local executor, with its own signal of preemption, and under a real local Ray."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metalab.cli import sweeps
from tests.cli.sweeping import JOBLIB, WORDS, Sweep, descendants, job, parent_of, same_weights, trains, until

pytestmark = pytest.mark.slow
STEPS = 200


def check_two_trainings_and_a_matrix(folder: Path, threads: int, *launcher: str) -> None:
    """Train two jobs, evaluate both with a matrix, one cell failing, and look at what is kept of the command."""
    words = (*WORDS, "train.steps=2", "seed=1,2", "hydra.sweep.dir=swept", *launcher)
    code, said = Sweep(folder, "-m", *words).ends()
    assert code == 0, said
    runs = [folder / "swept" / name for name in "01"]
    assert [job(run).state for run in runs] == ["done", "done"]
    for run in runs:
        made = json.loads((run / "run.json").read_text())
        assert made["command"].endswith(" ".join(words)), made["command"]
        assert (made["device"], made["threads"]) == ("cpu", threads)
    choices = ("run=swept/0,swept/1", "eval.split=val", "eval.episodes=2", "eval.bn=batch,nothing")
    code, said = Sweep(folder, "-m", *choices, "hydra.sweep.dir=tested", *launcher, command="eval").ends()
    assert code == 1, said
    assert "metalab: 2 of the sweep's jobs failed:\n  #1 " in said
    with (folder / "tested" / "matrix.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["words"] for row in rows] == ["eval.bn=batch"] * 2


def half_the_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) // 2)


def test_joblib(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs metalab[sweep]")
    check_two_trainings_and_a_matrix(tmp_path, half_the_cores(), *JOBLIB)


def test_submitit(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs metalab[slurm]")
    check_two_trainings_and_a_matrix(tmp_path, half_the_cores(), "hydra/launcher=submitit_local")


def test_a_preempted_job_of_submitit_goes_on_bit_for_bit(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs metalab[slurm]")
    words = (*WORDS, f"train.steps={STEPS}", "hydra/launcher=submitit_local", "seed=3")
    run = tmp_path / "swept" / "0"
    sweep = Sweep(tmp_path, "-m", *words, "hydra.sweep.dir=swept")
    until(lambda: trains(run), "it trains")
    first = job(run).pid or 0
    os.kill(parent_of(first), signal.SIGUSR2)  # what submitit's controller, and Slurm, send before the time is over
    until(lambda: not sweeps.process_lives(first), "the preempted process ends")
    assert (run / "last.pt").is_file()
    code, said = sweep.ends()
    assert code == 0, said
    assert job(run).state == "done"
    log = (run / "train.log").read_text()
    assert f"resumes {run} after step" in log
    assert json.loads((run / "run.json").read_text())["resumes"][0]["step"] < STEPS
    code, said = Sweep(tmp_path, *WORDS, f"train.steps={STEPS}", "seed=3", "hydra.run.dir=undisturbed").ends()
    assert code == 0, said
    assert same_weights(run, tmp_path / "undisturbed")

    code, said = Sweep(tmp_path, "-m", *words, "hydra.sweep.dir=swept").ends()  # typed again, it is another sweep
    assert code == 1
    assert "swept already holds a sweep: metalab train resume=swept goes on" in said
    assert job(run).state == "done"


@contextmanager
def ray_head(folder: Path) -> Iterator[str]:
    """Start a Ray of this machine's own, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    begin = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    begin += ["--object-store-memory=100000000", f"--temp-dir={folder}"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(begin, stdout=log, stderr=log, env=quiet, start_new_session=True)
    try:
        until(lambda: "--block" in (folder / "head.log").read_text(), "Ray's head begins")
        yield f"127.0.0.1:{port}"
    finally:
        below = descendants(head.pid)
        head.terminate()  # it ends what it began; `ray stop` would end every Ray of this machine
        head.wait(60)
        for pid in filter(sweeps.process_lives, below):
            os.kill(pid, signal.SIGKILL)


def test_ray(tmp_path):
    pytest.importorskip("ray", reason="needs metalab[ray]")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs metalab[ray]")
    with tempfile.TemporaryDirectory(prefix="ray") as short, ray_head(Path(short)) as address:  # a socket's path is
        init = (f"hydra.launcher.ray.init.address={address}", "+hydra.launcher.ray.init.object_store_memory=null")
        check_two_trainings_and_a_matrix(tmp_path, 1, "hydra/launcher=ray", *init)
