"""metalab eval ensemble=...: the members on the same episodes, alone and as one."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_parts  # type: ignore[import-not-found]  # conftest.py puts tests/tiny_data on the path
import torch
from scipy.stats import ttest_rel

from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.evaluation.ensemble import evaluation as ensemble
from metalab.evaluation.ensemble.record import ensemble_record
from metalab.tracking import checkpoint, eval_report
from metalab.training import train
from tests.configs import evaluation_setup

RUNS = {
    "protonet": (),
    "second": ("seed=1", "data.size=20"),
    "maml": ("algo=maml", "train.meta_batch=1", "algo.steps=1", "algo.test_steps=2"),
    "kept": ("train.keep_best=3", "train.val_every=1"),
    "snapshots": ("train.snapshots=2",),
}


OTHER = {"protonet": (), "twin": ("data.images=10", "eval.allow_overlap=true")}  # whose validation images are others
QUICK = ("data.absent=''", "eval.episodes=9", "eval.report=false")  # without pictures


@pytest.fixture(scope="module")
def home(small, tmp_path_factory) -> Path:
    """A folder of runs; `twin` is a copy of `protonet`."""
    home = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        train.run(small(*words), home / name)
    shutil.copytree(home / "protonet", home / "twin")
    return home


@pytest.fixture
def evaluated(small, home, tmp_path):
    """Evaluate runs as an ensemble: evaluated(how, *names, words=()) -> eval.json and the columns of episodes.csv."""

    def run(how: str | None, *names: str, words: tuple[str, ...] = ()):
        out = tmp_path / f"eval{len(list(tmp_path.iterdir()))}"
        asked = () if how is None else (f"+ensemble={how}",)
        pairs = [(home / n, small(*RUNS.get(n, ()), "seed=0", *QUICK, *asked, *words)) for n in names]
        evaluate.run(pairs, out)
        with (out / "episodes.csv").open() as file:
            rows = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
        return json.loads((out / "eval.json").read_text()), columns

    return run


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mean", "vote", "stacking"])
def test_a_run_with_itself_is_that_run(evaluated, how):
    alone, columns = evaluated(None, "protonet")
    record, found = evaluated(how, "protonet", "twin")
    assert (record["accuracy"], record["ci95"]) == (alone["accuracy"], alone["ci95"])
    assert (found["ensemble"] == columns["accuracy"]).all()
    assert [each["loss"] for each in record["members"]] == [alone["loss"]] * 2
    assert record["best_member"] == {"member": 0, "difference": 0.0, "difference_ci95": 0.0}
    if how == "mean":
        assert record["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    if how == "stacking":
        assert record["weights"][0] == pytest.approx(record["weights"][1], abs=1e-6)


@pytest.mark.slow
def test_members_are_measured_as_alone_and_differences_are_paired(evaluated):
    names = ("protonet", "second", "maml")  # of two sizes of images, two batch-norm modes and two algorithms
    record, found = evaluated("mean", *names, words=("eval.report=true",))
    for i, name in enumerate(names):
        alone, columns = evaluated(None, name)
        member = record["members"][i]
        assert {key: member[key] for key in alone if key in member} == {k: v for k, v in alone.items() if k in member}
        assert (found[f"member{i}"] == columns["accuracy"]).all()
        interval = ttest_rel(found["ensemble"], columns["accuracy"]).confidence_interval(0.95)
        assert member["difference"] == pytest.approx((interval.high + interval.low) / 2, abs=1e-12)
        assert member["difference_ci95"] == pytest.approx((interval.high - interval.low) / 2, abs=1e-12)
    assert record["accuracy"] == pytest.approx(found["ensemble"].mean(), abs=1e-12)
    assert (record["algo"], record["transductive"]) == ("protonet + maml", True)
    assert {"hardest_classes", "note", "way", "seed"} <= set(record)


def test_the_ensembles_accuracy_is_that_of_numpy_on_the_kept_logits(evaluated, monkeypatch):
    kept = []
    measured = ensemble.measured
    monkeypatch.setattr(ensemble, "measured", lambda t: kept.append((t, measured(t))) or kept[-1][1])
    for how in ("mean", "vote"):
        kept.clear()
        _, found = evaluated(how, "protonet", "maml", "second")
        t = kept[0][0]
        y = torch.cat([t.source(t.task)(step).query.y for step in range(2)])[:9].numpy()
        logits = np.stack([torch.cat(m.logits)[:9].double().numpy() for _, m in kept])
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        votes = np.eye(p.shape[-1])[logits.argmax(-1)].sum(0)
        taken = p.mean(0).argmax(-1) if how == "mean" else (votes + 1e-3 * p.mean(0)).argmax(-1)
        assert found["ensemble"] == pytest.approx((taken == y).mean(1), abs=1e-12)


def test_stacking_fits_on_validation_and_no_label_of_the_test_counts(evaluated, monkeypatch):
    first, _ = evaluated("stacking", "protonet", "second")
    load, asked = tiny_parts.Tiny.load, []

    def poisoned(self, split):
        asked.append(split)
        made = load(self, split)
        if split == "test":  # classes of random images
            made.images[:] = made.images[torch.randperm(len(made.images))]
        return made

    monkeypatch.setattr(tiny_parts.Tiny, "load", poisoned)
    fitted = []
    fit = ensemble.fit_weights
    monkeypatch.setattr(ensemble, "fit_weights", lambda *given: fitted.append(list(asked)) or fit(*given))
    second, _ = evaluated("stacking", "protonet", "second")
    assert second["weights"] == first["weights"]
    assert second["accuracy"] != first["accuracy"]
    assert first["weights"] != [0.5, 0.5]
    assert fitted
    assert asked.count("val") == 2


def test_a_blind_member_gets_none_of_stackings_weight(home, evaluated):
    shutil.copytree(home / "protonet", home / "blind", dirs_exist_ok=True)
    saved = checkpoint.load(home / "blind" / "best.pt")
    saved["net"] = {name: value * (not name.startswith("body")) for name, value in saved["net"].items()}
    checkpoint.save(home / "blind" / "best.pt", {k: v for k, v in saved.items() if k != "format"})
    record, found = evaluated("stacking", "blind", "protonet", words=("eval.episodes=30",))
    blind, seeing = record["members"]
    assert blind["accuracy"] == pytest.approx(0.2)
    assert seeing["accuracy"] > 0.25
    assert blind["weight"] == pytest.approx(0, abs=1e-6)
    assert seeing["weight"] > 0.1
    assert (found["ensemble"] == found["member1"]).all()


@pytest.mark.parametrize(
    ("name", "files"), [("snapshots", ["snapshot1", "snapshot2"]), ("kept", ["best", "best2", "best3"])]
)
def test_one_run_is_an_ensemble_of_the_checkpoints_it_kept(evaluated, home, name, files):
    record, _ = evaluated("mean", name)
    assert [each["checkpoint"] for each in record["members"]] == [str(home / name / f"{file}.pt") for file in files]
    assert len({each["step"] for each in record["members"]}) == len(files)


@pytest.mark.parametrize(
    ("how", "names", "words", "said"),
    [
        ("mean", ("protonet",), (), "is one net, and an ensemble needs several"),
        ("median", ("protonet", "maml"), (), "ensemble=median (text): expected one of mean, vote, stacking, samme"),
        ("mean", ("protonet", "maml"), ("eval.unknown=2",), "eval.unknown=2 with ensemble=mean"),
        ("mean", ("protonet", "maml"), ("eval.baseline=x",), "eval.baseline=x with ensemble=mean"),
        ("mean", ("protonet", "maml"), ("attack=fgsm",), "attack=[fgsm] with ensemble=mean"),
        ("mean", ("protonet", "maml"), ("eval.corrupt=fog",), "eval.corrupt=fog with ensemble=mean"),
        ("stacking", ("protonet", "maml"), ("eval.split=val",), "would measure it on the same"),
        ("samme", ("protonet", "maml"), (), "was not trained with train.boost"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(evaluated, how, names, words, said, monkeypatch):
    monkeypatch.setattr(ensemble, "measured", lambda t: pytest.fail("it measured"))
    with pytest.raises(UserError, match=re.escape(said)):
        evaluated(how, *names, words=words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("task.shot=2",), "task.shot is 2 in"),
        (("task.query_balance=dirichlet",), "task.query_balance is dirichlet in"),
        (("task.query_domain=ink",), "task.query_domain is ink in"),
        (("eval.episodes=7",), "eval.episodes is 7 in"),
        (("data.seed=1", "eval.allow_overlap=true"), "an ensemble sees the same classes"),
        (("data.images=10",), "the test images of"),
    ],
)
def test_runs_that_cannot_share_episodes_are_refused_by_name(small, home, tmp_path, words, said):
    asked = ("+ensemble=mean", *QUICK)
    pairs = [(home / "protonet", small(*asked)), (home / "twin", small(*asked, *words))]
    with pytest.raises(UserError, match=re.escape(said)) as error:
        evaluate.run(pairs, tmp_path / "out")
    assert str(home / "twin") in str(error.value)


def test_stacking_refuses_members_with_other_validation_episodes(evaluated, small, home, monkeypatch):
    val = {
        name: evaluation_setup(home / name, small("eval.split=val", *QUICK, *words)) for name, words in OTHER.items()
    }
    monkeypatch.setattr(ensemble, "_validation", lambda member, batch: val[member.folder.name])
    monkeypatch.setattr(ensemble, "fit_weights", lambda *given: pytest.fail("it fitted"))
    with pytest.raises(UserError, match=r"an ensemble sees the same images, and the val images of \S+twin and of"):
        evaluated("stacking", "protonet", "twin")


def test_from_the_command_line(command_line, home, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("eval", "--config-dir", str(tiny_dir), f"run=[{home / 'protonet'},{home / 'maml'}]", "hydra.run.dir=out")
    code, said = command_line(*words, "ensemble=vote", "device=cpu", *QUICK)
    assert code == 0, said
    lines = [line for line in said.splitlines() if line.strip()]
    assert "ensemble=vote" in lines[-1]
    assert "vote of 2 nets" in said


def test_the_record_says_how_queries_are_balanced_and_how_nets_were_adapted():
    row = {
        "run": "a",
        "way": 5,
        "shot": 1,
        "query": 15,
        "query_balance": "dirichlet",
        "dirichlet": 2.0,
        "split": "test",
    }
    row |= {"data": "tiny", "adapted": "eval.bn=target", "seed": 0, "trained_on": "tiny", "algo": "protonet"}
    row |= {"bn": "target", "transductive": False}
    accuracy = np.array([0.5, 0.75])
    record = ensemble_record("mean", [row, row], [accuracy, accuracy], accuracy, 1.0, None)
    assert record["adapted"] == "eval.bn=target"
    assert eval_report.queries(record) == "75 queries in all, classes by Dirichlet(2)"
