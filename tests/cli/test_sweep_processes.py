"""A sweep whose jobs run side by side, in which processes are killed, interrupted and gone on with."""

import json
import os
import signal

import pytest

from tests.cli.sweeping import (
    JOBLIB,
    LONG,
    WORDS,
    Sweep,
    descendants,
    gone,
    job,
    parent_of,
    same_weights,
    trains,
    until,
)

pytestmark = pytest.mark.slow
pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs metalab[sweep]")


def test_a_killed_job_is_a_failed_one_and_goes_on_with_its_sweep_bit_for_bit(tmp_path):
    """Also Ctrl-C to the parent alone: what runs saves, what has not begun does not, and all is done by resume=."""
    words = ("-m", *WORDS, *JOBLIB, "hydra.sweep.dir=swept")
    sweep = Sweep(tmp_path, *words, f"train.steps={LONG}", "seed=1,2,3")
    first, second, third = (tmp_path / "swept" / name for name in "012")
    until(lambda: trains(first) and trains(second), "two jobs train")
    os.kill(job(first).pid or 0, signal.SIGKILL)
    os.kill(job(second).pid or 0, signal.SIGSTOP)  # meanwhile it takes no steps, which are all done once more below
    until(lambda: trains(third), "the third begins in the place of the killed one")
    os.kill(job(second).pid or 0, signal.SIGCONT)
    assert (job(first).state, job(first).message) == ("failed", "killed by SIGKILL (out of memory?)")
    assert job(second).state == "running"
    below = descendants(sweep.process.pid)
    os.kill(sweep.process.pid, signal.SIGINT)
    code, said = sweep.ends()
    assert code == 130, said
    until(lambda: gone(below), "no process is left", 20)
    assert "metalab: 1 of the sweep's jobs failed:\n  #0 " in said
    assert "metalab: 2 of the sweep's jobs came to no end:\n  #1 " in said
    assert "metalab train resume=swept goes on" in said
    assert "Traceback" not in said
    steps = [last_step(folder) for folder in (second, third)]
    assert not (first / "last.pt").exists()  # it was killed before its first validation

    total = max(steps) + 5
    code, said = Sweep(tmp_path, "resume=swept", *JOBLIB, f"train.steps={total}").ends()
    assert code == 0, said
    assert "0 of its 3 jobs are finished and left alone" in said
    assert [job(folder).state for folder in (first, second, third)] == ["done"] * 3
    assert [job(folder).number for folder in (first, second, third)] == [0, 1, 2]
    assert job(first).words[-1] == f"train.steps={total}"
    alone = (*WORDS, f"train.steps={total}", "seed=2", "hydra.run.dir=undisturbed")
    threads = json.loads((second / "run.json").read_text())["threads"]  # another number adds up in another order
    code, said = Sweep(tmp_path, *alone, OMP_NUM_THREADS=str(threads)).ends()
    assert code == 0, said
    assert same_weights(second, tmp_path / "undisturbed")
    code, said = Sweep(tmp_path, "resume=swept").ends()
    assert code == 1
    assert "metalab: all 3 jobs of swept are finished" in said


def test_ctrl_c_to_all_saves_what_runs_and_leaves_nobody_behind(tmp_path):
    sweep = Sweep(tmp_path, "-m", *WORDS, *JOBLIB, "hydra.sweep.dir=swept", f"train.steps={LONG}", "seed=1,2,3")
    folders = [tmp_path / "swept" / name for name in "01"]
    until(lambda: all(map(trains, folders)), "two jobs train")
    below = descendants(sweep.process.pid)
    assert {job(folder).pid for folder in folders} <= below
    os.killpg(sweep.process.pid, signal.SIGINT)
    code, said = sweep.ends()
    assert code == 130, said
    until(lambda: gone(below), "no process is left", 20)
    assert all((folder / "last.pt").is_file() for folder in folders)
    assert not (tmp_path / "swept" / "2").exists() or not trains(tmp_path / "swept" / "2")


def test_a_killed_command_takes_its_workers_along_and_what_runs_saves(tmp_path):
    sweep = Sweep(tmp_path, "-m", *WORDS, *JOBLIB, "hydra.sweep.dir=swept", f"train.steps={LONG}", "seed=1,2,3")
    folders = [tmp_path / "swept" / name for name in "01"]
    until(lambda: all(map(trains, folders)), "two jobs train")
    below = descendants(sweep.process.pid)
    assert {job(folder).pid for folder in folders} <= below
    os.kill(sweep.process.pid, signal.SIGKILL)
    try:
        until(lambda: gone(below), "no process is left", 60)
    finally:
        sweep.ends()
    assert all((folder / "last.pt").is_file() for folder in folders)
    assert [job(folder).state for folder in folders] == ["stopped", "stopped"]
    assert not (tmp_path / "swept" / "2" / "job.json").exists()


def test_a_killed_worker_is_told_and_the_results_of_others_stay(tmp_path):
    words = ("-m", *WORDS, *JOBLIB, "hydra.sweep.dir=swept", f"train.steps=2,{LONG}", "seed=1,2")
    sweep = Sweep(tmp_path, *words)
    last = tmp_path / "swept" / "3"
    until(lambda: (last / "job.json").is_file(), "the last job begins", 600)
    below = descendants(sweep.process.pid)
    os.kill(parent_of(job(last).pid or 0), signal.SIGKILL)
    code, said = sweep.ends()
    assert code == 1
    assert "metalab: the launcher of the sweep broke off: TerminatedWorkerError" in said
    assert "Traceback" not in said
    assert [job(tmp_path / "swept" / name).state for name in "01"] == ["done", "done"]
    assert "2 of the sweep's jobs came to no end" in said
    assert "#3 " in said
    assert "its process was ended from outside" in said
    until(lambda: gone(below), "no process is left", 20)


def last_step(folder) -> int:
    import torch

    return torch.load(folder / "last.pt", weights_only=True)["state"]["step"]
