"""Rows side by side: shares of a budget, signals, failures. What is run are small scripts in the place of trainings."""

import json
import os
import signal
import sys
import threading
import time
from math import inf
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKER = """
import json, signal, sys, time
spec = json.load(open(sys.argv[1]))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
print("begun", flush=True)
open(spec["mark"], "w").write("begun")
if spec.get("deaf"):
    while True: time.sleep(0.05)
end = time.time() + spec["seconds"]
while time.time() < end and not stopped: time.sleep(0.02)
open(spec["mark"], "w").write("stopped" if stopped else "ended")
sys.exit(spec.get("code", 0))
"""


@pytest.fixture
def queues(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return __import__("reproduce_queue")


@pytest.fixture
def made(tmp_path, queues):
    """Make a job: made(name, weight=1, **what its worker is told); its .untils are what it was given."""
    (tmp_path / "worker.py").write_text(WORKER)

    def job(name: str, weight: float = 1.0, **told):
        untils: list[float | None] = []

        def spec(until: float | None) -> Path:
            untils.append(until)
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps({"mark": str(tmp_path / f"{name}.mark"), "seconds": 0.0, **told}))
            return path

        found = queues.Job(name, weight, spec, tmp_path / f"{name}.log", lambda: "its json is written")
        return found, untils

    return job


def queue(queues, tmp_path, jobs, slots=1, deadline=inf, grace=5.0):
    return queues.Queue(jobs, slots, deadline, grace, tmp_path / "worker.py")


def test_slots_get_about_the_same_to_do_in_the_rows_order(queues):
    assert queues.packed([1, 1, 1, 1], 2) == [[0, 2], [1, 3]]
    assert queues.packed([1, 5, 1, 1], 2) == [[1], [0, 2, 3]]
    assert queues.packed([1.0], 3) == [[0], [], []]


def test_each_job_gets_its_share_of_what_is_left_in_its_slot(queues, made, tmp_path, capsys):
    jobs = [made("short", 1.0), made("long", 3.0)]
    began = time.time()
    queue(queues, tmp_path, [job for job, _ in jobs], deadline=began + 400).run()
    (short, [first]), (long, [second]) = jobs
    assert first - began == pytest.approx(100, abs=20)  # a quarter
    assert second - began == pytest.approx(400, abs=2)  # all that is left, as the first took less
    assert (short.code, long.code) == (0, 0)
    assert "short: its json is written" in capsys.readouterr().out


def test_without_a_budget_nothing_is_cut(queues, made, tmp_path):
    job, untils = made("a")
    queue(queues, tmp_path, [job]).run()
    assert untils == [None]


def test_a_slot_with_nothing_to_do_takes_from_another(queues, made, tmp_path):
    first, second = made("a")[0], made("b")[0]
    own = queue(queues, tmp_path, [first, second], slots=2)
    own.slots = [[first, second], []]
    own.run()
    assert (first.code, second.code) == (0, 0)


def test_a_failure_is_reported_and_the_others_go_on(queues, made, tmp_path):
    bad, good = made("bad", code=3)[0], made("good")[0]
    queue(queues, tmp_path, [bad, good]).run()
    assert (bad.code, good.code) == (3, 0)
    assert bad.log.read_text() == "begun\n"


def test_what_goes_on_from_another_waits_for_it(queues, made, tmp_path):
    first, second = made("first", seconds=0.5)[0], made("second")[0]
    seen: list[str] = []
    second.after = first
    second.ready = lambda: not seen.append((tmp_path / "first.mark").read_text())
    queue(queues, tmp_path, [second, first], slots=2).run()
    assert seen == ["ended"]
    assert (first.code, second.code) == (0, 0)


def test_what_goes_on_from_an_unfinished_one_is_not_begun(queues, made, tmp_path):
    first, second = made("first")[0], made("second")[0]
    second.after, second.ready = first, lambda: False
    queue(queues, tmp_path, [first, second]).run()
    assert (first.code, second.code) == (0, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_runs_and_begins_nothing(queues, made, tmp_path, number):
    running, waiting = made("running", seconds=60)[0], made("waiting")[0]
    before = signal.getsignal(number)

    def send() -> None:
        while not (tmp_path / "running.mark").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    queue(queues, tmp_path, [running, waiting]).run()
    assert (tmp_path / "running.mark").read_text() == "stopped"
    assert (running.code, waiting.code) == (0, None)
    assert running.said == "its json is written"
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_what_does_not_end_in_time_is_killed_and_its_json_written(queues, made, tmp_path, monkeypatch):
    monkeypatch.setattr(queues, "LEAST", 0.0)
    deaf, _ = made("deaf", deaf=True)
    began = time.time()
    queue(queues, tmp_path, [deaf], deadline=began + 3).run()
    assert 2.5 < time.time() - began < 20
    assert (deaf.code, deaf.said) == (0, "its json is written")


def test_with_too_little_time_nothing_is_begun(queues, made, tmp_path):
    job, untils = made("a")
    queue(queues, tmp_path, [job], deadline=time.time() + queues.LEAST - 1).run()
    assert (job.code, untils) == (None, [])


def test_a_defect_in_one_slot_does_not_stop_the_others(queues, made, tmp_path):
    bad, good = made("bad")[0], made("good")[0]
    bad.spec = lambda until: tmp_path / "away" / "none" / str(1 / 0)
    queue(queues, tmp_path, [bad, good]).run()
    assert (bad.code, good.code) == (1, 0)
    assert "ZeroDivisionError" in bad.said


def test_slots_share_the_threads_and_wait_passively(queues, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    own = queues.environment(6)
    assert (own["OMP_NUM_THREADS"], own["OMP_WAIT_POLICY"], own["GOMP_SPINCOUNT"]) == ("2", "PASSIVE", "0")
    assert queues.environment(1)["OMP_NUM_THREADS"] == "16"  # one alone: as the user has it
    assert queues.environment(32)["OMP_NUM_THREADS"] == "1"


@pytest.fixture
def worker(monkeypatch):
    """reproduce_run.py in this process, whose signal handlers are put back."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    old = {number: signal.getsignal(number) for number in numbers}
    yield __import__("reproduce_run")
    for number, handler in old.items():
        signal.signal(number, handler)


def spec_of(folder: Path, seconds: float = 10.0) -> dict:
    evals = [{"words": ["task.query=1"], "out": str(folder / "eval"), "seconds": seconds}]
    return {
        "folder": str(folder),
        "train": ["seed=0"],
        "resume": ["device=cpu"],
        "evals": evals,
        "data": ["glyphs"],
        "slower": 1,
    }


def saved(folder: Path, monkeypatch, step: int, steps: int = 100, seconds: float = 60.0) -> None:
    """Let a run's checkpoints say so."""
    from metalab.tracking import checkpoint

    folder.mkdir(exist_ok=True)
    for name in ("best.pt", "last.pt"):
        (folder / name).touch()
    held = {"state": {"step": step, "seconds": seconds}, "config": {"train": {"steps": steps}}}
    monkeypatch.setattr(checkpoint, "load", lambda path: held)


def test_a_training_is_cut_so_that_its_evaluations_have_their_time(worker, tmp_path, monkeypatch):
    typed: list[tuple[str, ...]] = []
    monkeypatch.setattr(worker, "metalab", lambda *words: typed.append(words) or 0)
    clock = worker.Clock(time.time() + 210, 10)
    assert worker.train(spec_of(tmp_path / "run"), clock) == 0
    assert typed[0] == ("data", "prepare", "glyphs")
    verb, *words = typed[1]
    minutes = float(words.pop().removeprefix("train.minutes="))
    assert (verb, words) == ("train", ["seed=0", f"hydra.run.dir={tmp_path / 'run'}"])
    assert 60 * minutes == pytest.approx(210 - 10 - worker.START, abs=2)


def test_an_unfinished_run_is_resumed_for_as_long_again_and_a_finished_one_left_alone(worker, tmp_path, monkeypatch):
    typed: list[tuple[str, ...]] = []
    monkeypatch.setattr(worker, "metalab", lambda *words: typed.append(words) or 0)
    saved(tmp_path, monkeypatch, step=40, seconds=60)
    assert worker.train(spec_of(tmp_path), worker.Clock(time.time() + 90, 10)) == 0
    verb, resume, device, minutes = typed[1]
    assert (verb, resume, device) == ("train", f"resume={tmp_path}", "device=cpu")
    left = 80 - 0.2 * 80  # a fifth for start and end
    assert 60 * float(minutes.removeprefix("train.minutes=")) == pytest.approx(60 + left, abs=2)
    assert worker.train(spec_of(tmp_path), worker.Clock(None, 10)) == 0
    assert typed[3][-1] == "train.minutes=null"  # an earlier limit is lifted
    saved(tmp_path, monkeypatch, step=100)
    assert worker.train(spec_of(tmp_path), worker.Clock(None, 10)) == 0
    assert len(typed) == 4


def test_what_was_stopped_before_its_first_validation_gets_one(worker, tmp_path, monkeypatch):
    typed: list[tuple[str, ...]] = []
    monkeypatch.setattr(worker, "metalab", lambda *words: typed.append(words) or 0)
    saved(tmp_path, monkeypatch, step=40, seconds=60)
    worker.validate(spec_of(tmp_path), worker.Clock(None, 10))
    assert typed == []  # it had one
    (tmp_path / "best.pt").unlink()
    worker.validate(spec_of(tmp_path), worker.Clock(None, 10))
    verb, resume, _, minutes = typed[0]
    assert (verb, resume) == ("train", f"resume={tmp_path}")
    assert 60 < 60 * float(minutes.removeprefix("train.minutes=")) < 60.1
    (tmp_path / "last.pt").unlink()
    worker.validate(spec_of(tmp_path), worker.Clock(None, 10))
    assert len(typed) == 1  # nothing was trained


def test_an_evaluation_is_made_once_for_each_best_checkpoint(worker, tmp_path, monkeypatch):
    typed: list[tuple[str, ...]] = []

    def metalab(*words: str) -> int:
        typed.append(words)
        (tmp_path / "eval").mkdir(exist_ok=True)
        (tmp_path / "eval/eval.json").write_text(json.dumps({"step": 40}))
        return 0

    monkeypatch.setattr(worker, "metalab", metalab)
    saved(tmp_path, monkeypatch, step=40)
    for _ in range(2):
        assert worker.evaluate(spec_of(tmp_path), worker.Clock(None, 10))
    assert typed == [("eval", f"run={tmp_path}", "task.query=1", f"hydra.run.dir={tmp_path / 'eval'}")]
    saved(tmp_path, monkeypatch, step=50)
    assert worker.evaluate(spec_of(tmp_path), worker.Clock(None, 10))
    assert len(typed) == 2
    generation = tmp_path / "generation1"  # whose best step is the same, of a net that is another
    generation.mkdir()
    (generation / "best.pt").touch()
    (tmp_path / "config.yaml").touch()
    assert worker.evaluate(spec_of(tmp_path), worker.Clock(None, 10))
    assert len(typed) == 3
    (generation / "best.pt").unlink()
    typed.pop()
    saved(tmp_path, monkeypatch, step=60)
    assert worker.evaluate(spec_of(tmp_path), worker.Clock(time.time() + 1, 10))  # no time is left
    assert len(typed) == 2


def test_a_signal_ends_a_training_and_leaves_an_evaluation_its_grace(worker):
    clock = worker.Clock(None, 10)
    clock.training = True
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        signal.raise_signal(signal.SIGTERM)
    clock.training = False
    assert clock.left == inf
    signal.raise_signal(signal.SIGTERM)
    assert 5 < clock.left <= 10


def test_a_mistake_is_printed_and_its_code_returned(worker, monkeypatch, capsys):
    from metalab import cli

    monkeypatch.setattr(cli, "main", lambda: sys.exit("metalab: what is wrong"))
    monkeypatch.setattr(sys, "argv", [])
    assert worker.metalab("train") == 1
    assert "metalab: what is wrong" in capsys.readouterr().out
