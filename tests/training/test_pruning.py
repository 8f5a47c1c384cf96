"""A run below the median of the runs beside it ends early; one that is not, or has too few beside it, does not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from metalab.config.experiment import read_config
from metalab.core.errors import UserError
from metalab.tracking import checkpoint, provenance
from metalab.tracking.training_state import State
from metalab.training import train
from metalab.training.pruning import JOB, MedianRule, best_at, warn_of_parts


def beside(sweep: Path, name: str, values: Sequence[float | None], monitor: str = "accuracy", **record: object) -> Path:
    """Make a run of a sweep that ended, with validations at steps 2, 4, ..."""
    run = sweep / name
    run.mkdir(parents=True)
    (run / JOB).write_text("{}")
    (run / "run.json").write_text(json.dumps({"finished": "now", **record}))
    rows = [{"step": 2 * (i + 1), f"val/{monitor}": value} for i, value in enumerate(values)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"step": 1, "train/loss": 2}, *rows]))
    return run


def rule(
    sweep: Path,
    runs: int | None = 3,
    warmup: int = 0,
    monitor: Literal["accuracy", "loss"] = "accuracy",
    name: str = "mine",
) -> MedianRule:
    (sweep / name).mkdir(parents=True, exist_ok=True)
    (sweep / name / JOB).write_text("{}")
    return MedianRule(sweep / name, runs, warmup, monitor)


def test_best_up_to_a_step_that_was_validated(tmp_path):
    run = beside(tmp_path, "0", [0.3, 0.5, None, 0.4])
    assert [best_at(run, step, "accuracy") for step in (1, 2, 3, 4, 6, 8, 10)] == [None, 0.3, None, 0.5, 0.5, 0.5, None]
    assert best_at(run, 2, "loss") is None
    assert best_at(tmp_path / "none", 2, "accuracy") is None


def test_below_the_median_of_the_bests_at_this_step(tmp_path):
    for i, values in enumerate([[0.2, 0.6], [0.4, 0.3], [0.5], [0.9, 0.9]]):
        beside(tmp_path, str(i), values)
    at_two, at_four = sorted([0.2, 0.4, 0.5, 0.9]), sorted([0.6, 0.4, 0.9])  # one of them ended after step 2
    middle = (at_two[1] + at_two[2]) / 2
    mine = rule(tmp_path)
    assert mine(State(2, best=middle)) is None  # as good as the median is no worse
    assert mine.said is None
    said = mine(State(2, best=middle - 0.001))
    assert said is not None
    assert said.startswith(
        "pruned at step 2: the best validation accuracy so far, 44.90 %, is below 45.00 %, the median"
    )
    assert mine.said == said
    assert rule(tmp_path)(State(4, best=at_four[1])) is None
    assert "of 3 other runs" in str(rule(tmp_path)(State(4, best=at_four[1] - 0.001)))
    assert rule(tmp_path)(State(3, best=0.0)) is None  # where nobody else validated
    assert rule(tmp_path, runs=4)(State(4, best=0.0)) is None  # three came so far
    assert rule(tmp_path, warmup=3)(State(2, best=0.0)) is None
    assert rule(tmp_path, runs=None)(State(2, best=0.0)) is None
    assert rule(tmp_path)(State(2)) is None  # it has no validation yet
    assert rule(tmp_path)(State(2, best=0.0)) is not None


def test_of_a_loss_the_lower_is_better(tmp_path):
    for i, value in enumerate((1.0, 2.0, 3.0)):
        beside(tmp_path, str(i), [value], "loss")
    mine = rule(tmp_path, monitor="loss")
    assert mine(State(2, best=2.0)) is None
    assert "is above 2" in str(mine(State(2, best=2.1)))
    assert mine(State(2, best=float("nan"))) is not None


def test_only_runs_of_the_sweep_that_ended_well_count(tmp_path):
    beside(tmp_path, "0", [0.9])
    beside(tmp_path, "1", [0.9], finished=None)  # running, or killed
    beside(tmp_path, "2", [0.9], finished=None, failed="diverged")
    (beside(tmp_path, "3", [0.9]) / JOB).unlink()  # no job of a sweep
    (beside(tmp_path, "4", [0.9]) / "run.json").write_text("{cut")
    assert rule(tmp_path, runs=1)(State(2, best=0.0)) is not None
    assert rule(tmp_path, runs=2)(State(2, best=0.0)) is None
    alone = rule(tmp_path, runs=1, name="alone")
    (tmp_path / "alone" / JOB).unlink()
    assert alone(State(2, best=0.0)) is None


@pytest.mark.slow
def test_a_bad_run_ends_early_and_a_good_one_does_not(small, tmp_path):
    for name, value in (("good", 0.0), ("bad", 1.0)):
        for i in range(2):
            beside(tmp_path / name, str(i), [value, value])
        rule(tmp_path / name)  # its folder is a job's
    cfg = small("train.prune_after=2")
    best = train.run(small("train.prune_after=2"), tmp_path / "good/mine")
    record = json.loads((tmp_path / "good/mine/run.json").read_text())
    assert (record["steps"], "pruned" in record) == (4, False)
    out = tmp_path / "bad/mine"
    first = train.run(cfg, out)
    record = json.loads((out / "run.json").read_text())
    assert record["steps"] == 2
    assert record["finished"]
    assert record["pruned"].startswith("pruned at step 2: the best validation accuracy so far, ")
    assert checkpoint.load(out / "last.pt")["state"]["step"] == 2
    assert first == checkpoint.load(out / "best.pt")["state"]["best_accuracy"] <= best

    resumed = small("train.prune_after=2", f"resume={out}")
    assert train.run(resumed, out) == first  # nothing is done
    assert checkpoint.load(out / "last.pt")["state"]["step"] == 2
    goes_on = small("train.prune_after=null", f"resume={out}")
    assert train.run(goes_on, out) == best  # as if it had never been ended
    record = json.loads((out / "run.json").read_text())
    assert (record["steps"], "pruned" in record) == (4, False)


def test_a_run_that_is_hopeless_when_it_goes_on_is_written_down_as_pruned(small, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / JOB).write_text("{}")
    train.run(small("train.steps=2"), out)
    for i in range(2):
        beside(tmp_path, str(i), [1.0])  # which ended meanwhile
    provenance.write(out, finished=None)  # it was killed
    train.run(small("train.prune_after=2", f"resume={out}"), out)
    record = json.loads((out / "run.json").read_text())
    assert record["pruned"].startswith("pruned at step 2: ")
    assert record["finished"]
    assert checkpoint.load(out / "last.pt")["state"]["step"] == 2


@pytest.mark.parametrize("word", ["train.generations=2", "eval.folds=3", "train.phases=[{algo:maml},{algo:anil}]"])
def test_a_run_of_several_trainings_says_that_it_is_not_pruned(word, caplog, small):
    warn_of_parts(read_config(small("train.prune_after=2", word, "reg=distill")))
    key = word.partition("=")[0]
    assert f"train.prune_after=2 ends no run with {key}, which is several trainings" in caplog.text
    caplog.clear()
    warn_of_parts(read_config(small(word)))
    warn_of_parts(read_config(small("train.prune_after=2")))
    assert caplog.text == ""


def test_a_count_that_makes_no_median_is_refused(small, tmp_path):
    with pytest.raises(UserError, match=r"train\.prune_after=1: expected 2 or more"):
        train.run(small("train.prune_after=1"), tmp_path / "out")
