"""resume= with a sweep's folder: what is unfinished goes on in its own folder, and what is finished is left alone."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from metalab.cli import sweeps
from metalab.cli.job_process import Task
from metalab.cli.job_records import process
from metalab.cli.sweep_jobs import every_job
from metalab.cli.sweeps import Sweep
from metalab.core.errors import UserError

WORDS = ("-m", "seed=0,1,2", "task=5way5shot", "hydra.sweep.dir=swept")


@pytest.fixture
def swept(bench):
    """A sweep of three jobs, of which the second failed, the third was stopped after it saved; what it trained."""
    bench.fail = lambda cfg: UserError("no luck") if cfg.seed == 1 else None
    assert bench("train", *WORDS)[0] == 1
    bench.fail = None
    bench.trained.clear()
    _change("2", state="stopped")
    return bench


def _change(name: str, **changes) -> None:
    job = sweeps.read_job(Path("swept", name))
    assert job is not None
    sweeps.record(replace(job, **changes))


def test_what_is_unfinished_goes_on_under_its_own_number_and_words(swept):
    code, out, err = swept("train", "resume=swept", "train.minutes=5")
    assert (code, err) == (0, "")
    assert "swept: 1 of its 3 jobs are finished and left alone; to do:" in out
    assert "#1 seed=1 task=5way5shot: begins" in out
    assert "#2 seed=2 task=5way5shot: goes on" in out
    (one, first), (two, second) = swept.trained
    assert [first, second] == [Path("swept/1").absolute(), Path("swept/2").absolute()]
    assert (one.seed, one.task.shot, one.train.minutes, one.resume) == (1, 5, 5, None)
    assert (two.seed, two.task.shot, two.train.minutes, two.resume) == (2, 5, 5, str(second))
    jobs = [json.loads((Path("swept") / name / "job.json").read_text()) for name in "012"]
    assert [(job["number"], job["state"]) for job in jobs] == [(0, "done"), (1, "done"), (2, "done")]
    assert jobs[1]["words"] == ["seed=1", "task=5way5shot", "train.minutes=5"]
    assert (Path("swept/0/.hydra").is_dir(), sweeps.NOTE in os.environ) == (True, False)
    code, _, err = swept("train", "-m", "resume=swept")
    assert code == 1
    assert err == (
        "metalab: all 3 jobs of swept are finished. To train one of them further type resume=swept/0 and a higher "
        "train.steps"
    )


@pytest.mark.slow
def test_a_sweep_that_was_moved_and_is_older_than_its_records_goes_on(swept):
    Path("swept").rename("elsewhere")
    Path("elsewhere/sweep.json").unlink()
    shutil.rmtree("elsewhere/1")
    code, out, err = swept("train", "resume=elsewhere")
    assert (code, err) == (0, "")
    assert [(cfg.seed, path.relative_to(Path.cwd())) for cfg, path in swept.trained] == [
        (1, Path("elsewhere/1")),
        (2, Path("elsewhere/2")),
    ]
    assert "#1 seed=1 task=5way5shot: begins" in out


def test_a_job_that_fails_again_is_told_by_its_own_number(swept):
    swept.fail = lambda cfg: UserError("no luck again") if cfg.seed == 1 else None
    code, _, err = swept("train", "resume=swept")
    assert code == 1
    assert err.endswith("metalab: 1 of the sweep's jobs failed:\n  #1 seed=1 task=5way5shot: no luck again\n")
    assert len(swept.trained) == 2


def test_mistakes_are_told_before_any_work(swept):
    with FileLock("swept/2/.lock"):
        code, _, err = swept("train", "resume=swept")
        assert (code, "swept/2 is being written by another process" in err) == (1, True)
    _change("1", state="running", **process(os.getppid()))
    code, _, err = swept("train", "resume=swept")
    assert (code, f"swept/1 is being written by process {os.getppid()} on" in err) == (1, True)
    _change("1", state="failed")
    code, _, err = swept("train", "resume=swept", "train.steps=800,1200")
    assert (code, "train.steps=800,1200: resume=swept goes on with jobs that each have their own words" in err) == (
        1,
        True,
    )
    Path("swept/sweep.json").write_text(json.dumps({"id": "x", "command": "eval", "jobs": []}))
    code, _, err = swept("train", "resume=swept")
    assert (code, "swept is a sweep of metalab eval, which does not go on" in err) == (1, True)
    Path("none").mkdir()
    code, _, err = swept("train", "resume=none")
    assert (code, "none is not a run" in err) == (1, True)
    Path("none/multirun.yaml").write_text("hydra: 5\n")
    code, _, err = swept("train", "resume=none")
    assert (code, "none/multirun.yaml: expected what Hydra writes of a sweep" in err) == (1, True)
    assert swept.trained == []


def test_what_was_ended_on_another_host_goes_on_here(swept):
    """As a container that was killed, of which nobody else can see that it is gone."""
    _change("1", state="running", pid=1, host="elsewhere")
    assert swept("train", "resume=swept")[::2] == (0, "")
    assert [path.name for _, path in swept.trained] == ["1", "2"]


def test_what_does_not_train_changes_no_record(swept, monkeypatch):
    before = {path: path.read_bytes() for path in Path("swept").rglob("*.json")}
    code, out, err = swept("train", "resume=swept", "train.minutes=5", "--cfg", "job")
    assert (code, err) == (0, "")
    assert "minutes: 5" in out
    code, out, _ = swept("train", "resume=swept", "trian.steps=5")
    assert code == 1
    monkeypatch.setattr("metalab.cli.torchrun.several", lambda: True)
    code, _, err = swept("train", "resume=swept")
    assert (code, "resume=swept is a sweep, and torchrun started" in err) == (1, True)
    assert {path: path.read_bytes() for path in Path("swept").rglob("*.json")} == before
    assert swept.trained == []


def test_a_job_is_of_this_sweep_by_its_id(tmp_path):
    """Also where an older sweep failed in the same folder, or another one lies below it."""
    plan = Sweep("now", "train", [["seed=5"], ["seed=6"], ["seed=7"]], earlier=["before"])
    for name, number, sweep, state in (
        ("0", 0, "before", "done"),
        ("1", 1, "older", "failed"),
        ("3", 3, "older", "failed"),
        ("0/again/0", 2, "below", "done"),
    ):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        sweeps.record(sweeps.Job(str(tmp_path / name), number, [f"seed={number}"], state, sweep=sweep))  # type: ignore[arg-type]
    found = [(Path(job.folder).name, job.words, job.state) for job in every_job(tmp_path, plan)]
    assert found == [("0", ["seed=0"], "done"), ("1", ["seed=6"], "waiting"), ("2", ["seed=7"], "waiting")]
    (tmp_path / "1" / "last.pt").touch()
    with pytest.raises(UserError, match=r"#1 seed=6 never began, and its folder, .*1, is that of another sweep's job"):
        every_job(tmp_path, plan)


def test_a_job_that_never_began_takes_no_other_jobs_folder(tmp_path):
    """With hydra.sweep.subdir=${seed} the first of seed=1,0 has the folder of the second's number."""
    (tmp_path / "1").mkdir()
    sweeps.record(sweeps.Job(str(tmp_path / "1"), 0, ["seed=1"], "done", sweep="now"))
    plan = Sweep("now", "train", [["seed=1"], ["seed=0"]], subdir="${seed}")
    with pytest.raises(UserError, match=r"subdir=.* names the folders of its jobs, and #1 has none"):
        every_job(tmp_path, plan)
    with pytest.raises(UserError, match="#1 seed=0 never began, and its folder"):
        every_job(tmp_path, replace(plan, subdir="${hydra.job.num}"))


def test_a_record_in_a_sweep_has_nothing_imported_that_the_command_does_not_name(swept):
    _change("1", words=["seed=1", "algo._target_=os.system"])
    code, _, err = swept("train", "resume=swept")
    assert code == 1
    assert "names os.system, which is no part of metalab" in err
    assert swept.trained == []


def test_a_job_that_its_scheduler_starts_again_goes_on_and_one_that_is_typed_again_does_not(bench, monkeypatch):
    """Both find a run in the folder; only the first one's record has the id of the command's own sweep."""
    begun = []

    def preempted_once(cfg, out):
        begun.append((out.name, cfg.resume))
        bench.train(cfg.copy(), out)
        return 0.5 if cfg.resume else Task("train")(cfg.copy())  # as a launcher does, with the same arguments

    monkeypatch.setattr("metalab.training.train.run", preempted_once)
    words = ("-m", "seed=3", "hydra.sweep.dir=swept")
    assert bench("train", *words)[0] == 0
    assert begun == [("0", None), ("0", str(Path("swept/0").absolute()))]
    before = {path: path.read_bytes() for path in Path("swept").rglob("*") if path.is_file()}
    code, _, err = bench("train", *words)
    assert code == 1
    assert {path: path.read_bytes() for path in Path("swept").rglob("*") if path.is_file()} == before
    assert err == (
        "metalab: swept already holds a sweep: metalab train resume=swept goes on with what is not finished; a sweep "
        "of its own has a folder of its own, as hydra.sweep.dir=outputs/train/another"
    )
    assert len(begun) == 2
