"""`metalab eval attack=...`: what is reported, that it is never better than clean, and what is refused."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalab.attacks.build import AttackSettings
from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.evaluation.robustness import batch_norm_note, worst
from metalab.training import train

RUNS = {
    "protonet": ("train.steps=20", "train.val_every=20"),
    "maml": ("algo=maml", "train.meta_batch=1", "algo.test_steps=1", "train.bn=support", "eval.bn=support"),
}


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        train.run(small(*words), home / name)
    return {name: home / name for name in RUNS}


@pytest.fixture
def result(small, runs, tmp_path):
    def evaluated(name: str, *overrides: str):
        out = tmp_path / f"eval{len(list(tmp_path.iterdir()))}"
        cfg = small(*RUNS[name], "data.absent=''", *overrides)
        evaluate.run([(runs[name], cfg)], out)
        return json.loads((out / "eval.json").read_text()), out

    return evaluated


def test_episodes_of_any_way_can_be_attacked(result):
    words = ("task=variable", "task.way=6", "task.support=20", "task.query=2", "eval.batch=2", "eval.episodes=5")
    record, out = result("protonet", *words, "attack=fgsm", "eval.eps=[0,8]")
    assert record["way"] == "5..6"
    none, some = (attack["accuracy"] for attack in record["attacks"])
    assert none == record["accuracy"]  # on all of the episodes, not one for each two
    assert some <= record["accuracy"]
    assert (out / "robustness.png").stat().st_size > 5000


@pytest.mark.slow
def test_zero_gradients_are_the_mean_over_the_episodes_that_had_any(result):
    """With one query a class, some episodes have none that is right, and attack=auto then takes no gradient."""
    words = ("task.query=1", "eval.episodes=30", "eval.batch=30", "attack=auto", "attack.auto.steps=2")
    few = ("attack.auto.targets=0", "attack.auto.queries=0")
    for engine in ("learn2learn", "vectorized"):
        record, _ = result("maml", *words, *few, f"engine={engine}", "eval.bn=support")
        assert 0 <= record["attacks"][0]["zero_gradients"] <= 1


@pytest.mark.slow
def test_what_adapts_at_random_is_not_attacked(small, tmp_path):
    maml = (*RUNS["maml"], "train.steps=1")
    inner = ("reg=adv_pgd", "reg.adv_pgd.on=support", "reg.adv_pgd.where=inner", "reg.adv_pgd.steps=1")
    for what, words in {
        "algo.head_init=random": ["algo.head_init=random"],
        "reg.adv_pgd.random_start=true": inner,
    }.items():
        train.run(small(*maml, *words), tmp_path / what)
        cfg = small(*maml, *words, "data.absent=''", "attack=fgsm")
        with pytest.raises(UserError, match=re.escape(what) + " adapts a task in another way each time"):
            evaluate.run([(tmp_path / what, cfg)], tmp_path / "out")


def test_a_net_that_adapts_to_attacked_supports_says_so(small, tmp_path):
    fixed = "reg.adv_pgd.random_start=false"
    words = (*RUNS["maml"], "train.steps=1", "reg=adv_pgd", "reg.adv_pgd.on=support", "reg.adv_pgd.where=inner", fixed)
    train.run(small(*words), tmp_path / "run")
    evaluate.run([(tmp_path / "run", small(*words, "data.absent=''"))], tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert record["note"] == "adapted to supports that reg.adv_pgd attacked"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_clean_and_attacked_accuracy_are_of_the_same_episodes(result, name, capsys):
    words = ("attack=[fgsm,pgd]", "attack.pgd.steps=4", "eval.eps=[0,16,64]")
    record, out = result(name, *words, "eval.episodes=5", "eval.batch=2")
    attacks = record["attacks"]
    assert [(a["name"], a["eps"]) for a in attacks] == [(n, e) for n in ("fgsm", "pgd", "all") for e in (0, 16, 64)]
    keys = {"name", "norm", "on", "support", "eps", "steps", "accuracy", "ci95", "zero_gradients"}
    assert {a["support"] for a in attacks} == {None}
    assert all(set(a) == keys for a in attacks)
    assert {a["steps"] for a in attacks if a["name"] == "pgd"} == {4}
    assert {a["accuracy"] for a in attacks if a["eps"] == 0} == {record["accuracy"]}  # eps 0 is clean, exactly
    by = {(a["name"], a["eps"]): a["accuracy"] for a in attacks}
    assert max(by.values()) <= record["accuracy"]
    assert by["pgd", 64] < record["accuracy"]
    assert all(by["all", e] <= min(by["fgsm", e], by["pgd", e]) for e in (0, 16, 64))
    assert all(0 <= a["zero_gradients"] <= 1 for a in attacks if a["name"] != "all")
    with (out / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [a["accuracy"] for a in attacks]
    assert {row["bn"] for row in rows} == {record["bn"]}
    assert (out / "robustness.png").stat().st_size > 5000
    events = EventAccumulator(str(out), {"images": 0, "scalars": 0}).Reload()
    assert events.Scalars("robust/pgd_64_255ths/accuracy")[0].value == pytest.approx(by["pgd", 64])
    assert "robust/curve" in events.Tags()["images"]
    said = " ".join(capsys.readouterr().out.split())
    assert "pgd 64/255" in said
    assert "on query, linf, 4 steps" in said
    assert "note" not in record
    again, _ = result(name, *words, "eval.episodes=5", "eval.batch=2")
    assert again == record  # the random starts, too, come from the seed


@pytest.mark.slow
@pytest.mark.parametrize("support", ["adapt", "own_loss"])
@pytest.mark.parametrize("on", ["support", "both"])
def test_the_support_can_be_attacked(result, on, support, capsys):
    words = ("attack=pgd", "attack.pgd.steps=3", "attack.pgd.random_start=false", "eval.eps=[0,8]")
    record, _ = result("protonet", *words, f"attack.on={on}", f"attack.support={support}")
    zero, much = (a["accuracy"] for a in record["attacks"])
    assert zero == record["accuracy"]
    assert much < record["accuracy"]
    assert {a["support"] for a in record["attacks"]} == {support}
    poison, climbs = record["note"].split("; ")
    assert poison.startswith(f"attack.on={on}: one poisoned support for all queries of a task, the worst tried")
    assert ("queries attacked at it and at the clean one" in poison) == (on == "both")
    assert climbs.startswith(f"attack.support={support}: it climbs the")
    assert ("second-order" in climbs, "a surrogate" in climbs) == (support == "adapt", support == "own_loss")
    assert f"on {on} by {support}, linf" in " ".join(capsys.readouterr().out.split())
    query, _ = result("protonet", *words)
    assert (much <= query["attacks"][1]["accuracy"]) == (on == "both")


@pytest.mark.slow
def test_maml_is_attacked_through_its_inner_step_on_both_engines(result):
    words = ("attack=pgd", "attack.pgd.steps=3", "attack.on=support", "eval.eps=[0,51]", "eval.bn=support")
    for engine in ("learn2learn", "vectorized"):
        record, _ = result("maml", *words, f"engine={engine}")
        zero, much = record["attacks"]
        assert zero["accuracy"] == record["accuracy"]
        assert much["accuracy"] < record["accuracy"]
        assert much["zero_gradients"] == 0


def test_of_several_attacks_on_supports_a_task_has_the_worst_one(result):
    """Right after all of them would be right at another support for each query."""
    words = ("attack=[fgsm,pgd]", "attack.pgd.steps=3", "attack.eps=8", "attack.on=support", "eval.episodes=20")
    record, _ = result("protonet", *words)
    fgsm, pgd, both = (a["accuracy"] for a in record["attacks"])
    assert fgsm + pgd - record["accuracy"] < both <= min(fgsm, pgd)
    right = torch.tensor([[[1, 0, 0, 1], [1, 1, 1, 1]], [[0, 1, 1, 1], [0, 0, 1, 0]]]).bool()  # [A,T,N]
    assert worst(right, AttackSettings(8.0, "linf", "query")).int().tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
    for on in ("support", "both"):
        assert worst(right, AttackSettings(8.0, "linf", on)).int().tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]


def test_fab_is_refused_on_supports_and_auto_goes_without_it(result):
    with pytest.raises(UserError, match=re.escape("attack.fab with attack.on=support: FAB looks for the nearest")):
        result("protonet", "attack=[pgd,fab]", "attack.on=support")
    short = ("attack.fab.steps=2", "attack.fab.targets=1")
    assert result("protonet", "attack=fab", *short, "attack.on=support", "attack.support=own_loss")[0]["attacks"]
    few = ("attack.auto.steps=2", "attack.auto.targets=1", "attack.auto.queries=2", "eval.episodes=2")
    record, _ = result("protonet", "attack=auto", *few, "attack.on=support")
    assert "attack.auto on supports: without FAB" in record["note"]


def test_a_transductive_mode_is_refused_and_another_than_the_trainings_is_noted(result):
    with pytest.raises(UserError, match=re.escape("an attack with bn=batch: an attacked query would change")):
        result("protonet", "attack=fgsm", "eval.bn=batch")
    assert "note" not in result("protonet", "attack=fgsm")[0]
    record, _ = result("protonet", "attack=fgsm", "eval.bn=support")
    assert record["note"] == "attacked with bn=support, trained with train.bn=batch"
    assert batch_norm_note("running", "support") == "attacked with bn=running, trained with train.bn=support"
    assert batch_norm_note("one", "support") == ""


def test_an_attack_is_never_inherited(command_line, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.run(small("train.steps=1"), tmp_path / "run")
    given = OmegaConf.load(tmp_path / "run" / "config.yaml")
    given.attack = small("attack=fgsm", "attack.eps=3").attack  # older versions took it in training
    OmegaConf.save(given, tmp_path / "run" / "config.yaml")
    words = ("eval", "--cfg", "job", "run=run", "device=cpu")
    code, said = command_line(*words)
    assert code == 0, said
    assert "fgsm" not in said
    assert "eps: 8.0" in said
    assert "eps: 4" in command_line(*words, "attack=pgd", "attack.eps=4")[1]
