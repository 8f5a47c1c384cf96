"""A trained run as a teacher, from the command's configuration to the student's checkpoint and record."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metalab.cli import run_overrides
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.evaluation import evaluate
from metalab.tracking import checkpoint
from metalab.training import train
from metalab.training.teacher import LoadedTeacher
from tests.configs import training_setup
from tests.training.phases import train_in_phases
from tests.training.test_resume import assert_same_run, lines, same

SHORT = ("train.steps=2", "train.val_episodes=2", "train.meta_batch=1", "data.absent=''")
EPISODES = ("task.train_query=3", *SHORT)
PLAIN = ("algo=rfs", "task.train_way=null", "algo.mini_batch=8", "algo.iterations=5", *SHORT)


def learns(teacher: Path, *words: str) -> tuple[str, ...]:
    return ("reg=distill", f"reg.distill.teacher={teacher}", *words)


@pytest.fixture(scope="module")
def maml(small, tmp_path_factory) -> Path:
    """A run of MAML, of 5 classes an episode."""
    out = tmp_path_factory.mktemp("teachers") / "maml"
    train.run(small("algo=maml", "algo.test_steps=1", *EPISODES), out)
    return out


@pytest.fixture(scope="module")
def plain(small, tmp_path_factory) -> Path:
    """A run of a classifier of all training classes."""
    out = tmp_path_factory.mktemp("teachers") / "plain"
    train.run(small(*PLAIN), out)
    return out


def record(folder: Path) -> dict:
    return json.loads((folder / "eval.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_student_is_resumed_bit_by_bit_and_tested_without_its_teacher(maml, small, tmp_path):
    teacher, moved = tmp_path / "teacher", tmp_path / "moved"
    shutil.copytree(maml, teacher)
    own = (*EPISODES, "data.seed=1", "reg=distill", "reg.distill.features_weight=0.1")
    words = (*own, f"reg.distill.teacher={teacher}")
    train.run(small(*words, "train.steps=4"), tmp_path / "whole")
    train.run(small(*words), tmp_path / "cut")
    shutil.move(teacher, moved)
    again = (*own, f"reg.distill.teacher={moved}", "train.steps=4", f"resume={tmp_path / 'cut'}")
    train.run(small(*again), tmp_path / "cut")
    one, other = (checkpoint.load(tmp_path / run / "last.pt") for run in ("whole", "cut"))
    assert any(name.startswith("reg_regressor.") for name in one["net"])
    assert same(*({key: saved[key] for key in ("net", "optimizer", "random", "data")} for saved in (one, other)))
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert set(checkpoint.load(maml / "best.pt")["classes"]) < set(one["classes"])
    changed = checkpoint.load(moved / "best.pt")
    changed["net"]["body.0.0.weight"] += 1
    checkpoint.save(moved / "best.pt", changed)
    with pytest.raises(UserError, match=r"^reg\.distill\.teacher=\S+: its best\.pt is not the one that the run began"):
        train.run(small(*again, "train.steps=6"), tmp_path / "cut")
    shutil.rmtree(moved)
    with pytest.raises(UserError, match=r"was trained on 1 of the 12 classes of the test split: tiny:010010100"):
        evaluate.run([(tmp_path / "whole", small(*words))], tmp_path / "eval")  # the teacher was, and it was not
    evaluate.run([(tmp_path / "whole", small(*words, "eval.allow_overlap=true"))], tmp_path / "eval")
    assert f"distilled from {teacher} (algo=maml, step 2)" in record(tmp_path / "eval")["note"]


def test_a_teacher_that_was_trained_on_validation_classes_is_refused(maml, small, tmp_path):
    with pytest.raises(UserError, match=r"^reg\.distill\.teacher=\S+ was trained on 6 of the 12 validation classes"):
        train.run(small(*EPISODES, *learns(maml), "data.seed=172"), tmp_path / "leaked")
    assert not (tmp_path / "leaked").exists()


def test_a_classifier_learns_from_one_of_the_same_classes_alone(plain, maml, small, tmp_path):
    r = training_setup(small(*PLAIN, *learns(plain)))
    assert r.teacher is not None
    with torch.no_grad():
        batch = r.training("train", 1)(0)
        episode = type(batch)(*(type(b)(*(t[0] for t in b)) for b in batch))
        logits = r.teacher.logits(episode, 40)
    assert logits.shape == (8, 40)
    saved = checkpoint.load(plain / "best.pt")
    assert saved["head_classes"] == r.data["train"].ids
    with pytest.raises(UserError, match=r"algo=maml has no head for the 40 training classes"):
        training_setup(small(*PLAIN, *learns(maml)))
    with pytest.raises(UserError, match=r"its head has other classes than the 40 of this training"):
        training_setup(small(*PLAIN, *learns(plain), "data.seed=1"))
    old = tmp_path / "old"  # a run from before head_classes
    shutil.copytree(plain, old)
    del saved["head_classes"]
    checkpoint.save(old / "best.pt", saved)
    training_setup(small(*PLAIN, *learns(old)))
    with pytest.raises(UserError, match=r"its head has other classes"):
        training_setup(small(*PLAIN, *learns(old), "data.seed=1"))


def test_a_classifier_teaches_episodes_by_its_own_algorithm(plain, small):
    r = training_setup(small(*EPISODES, *learns(plain), "algo=protonet", "backbone.filters=6"))
    assert r.teacher is not None
    assert not r.teacher.classifies
    assert r.teacher.features == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("data.size=20",),
            r"^reg\.distill\.teacher=\S+: it takes images of shape \[1, 16, 16\], and these have \[1, 20",
        ),
        (("task.train_way=4",), r"its head was learned for 5 classes and the student trains on 4"),
        (("reg.distill.teacher=null",), r"^reg\.distill\.teacher=null: whom does it learn from\? Type"),
        (("reg.distill.teacher=/nowhere",), r"^reg\.distill\.teacher=/nowhere: there is no folder /nowhere"),
        (("reg.distill.temperature=0",), r"^reg\.distill\.temperature=0: expected a number above 0"),
        (("reg.distill.weight=1.5",), r"^reg\.distill\.weight=1\.5: expected a share from 0 to 1"),
        (("algo=reptile", "algo.steps=2"), r"^reg\.distill works on the loss of the query, from which"),
        (("algo=mann", "algo.test_steps=0"), r"^reg\.distill compares predictions on queries, and algo=mann learns"),
        (
            ("train.generations=2",),
            r"^train\.generations=2 with reg\.distill\.teacher=\S+: the teacher is the generation",
        ),
    ],
)
def test_what_is_no_teacher_is_refused_before_any_work(maml, small, tmp_path, words, said):
    if words[0].startswith("algo=mann"):
        words = ("algo=mann",)
    with pytest.raises(UserError, match=said):
        train.run(small(*EPISODES, *learns(maml), *words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_learn_from_itself(maml, small):
    with pytest.raises(UserError, match=r"is the folder of this run itself: give the student another"):
        train.run(small(*EPISODES, *learns(maml)), maml)


def test_latest_is_looked_up_once_and_a_missing_teacher_is_named(maml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^reg\.distill\.teacher=nowhere: there is no folder nowhere in"):
        run_overrides.prepare("train", ["reg=distill", "reg.distill.teacher=nowhere"], multirun=False)
    shutil.copytree(maml, tmp_path / "outputs/train/first")
    words, _ = run_overrides.prepare("train", ["reg=distill", "reg.distill.teacher=latest"], multirun=False)
    assert words["reg.distill.teacher=latest"] == "reg.distill.teacher='outputs/train/first'"


@pytest.fixture(scope="module")
def generations(small, tmp_path_factory) -> tuple[Path, float]:
    """The folder of two generations, and what the training returned."""
    out = tmp_path_factory.mktemp("generations") / "run"
    return out, train.run(small(*PLAIN, "reg=distill", "train.generations=2"), out)


def test_each_generation_learns_from_the_one_before(generations, plain):
    out, value = generations
    first, second = (checkpoint.load(out / f"generation{k}" / "best.pt") for k in (0, 1))
    assert first["config"]["reg"] == {}
    assert second["config"]["reg"]["distill"]["teacher"] == str(out / "generation0")
    assert (first["config"]["seed"], second["config"]["seed"]) == (0, 10**6)
    rows = json.loads((out / "generations.json").read_text())["generations"]
    assert [row["validation"] for row in rows] == [saved["state"]["best_accuracy"] for saved in (first, second)]
    assert value == rows[-1]["validation"]
    assert same(first["net"], checkpoint.load(plain / "best.pt")["net"])  # the first is a training as any


@pytest.mark.slow
def test_generations_go_on_after_a_kill_between_them(generations, command_line, tiny_dir, tmp_path, monkeypatch):
    whole, _ = generations
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, whole.parent / "kept")
    before = (whole / "generation0" / "last.pt").stat().st_mtime_ns
    shutil.rmtree(whole / "generation1")
    (whole / "generations.json").unlink()
    code, said = command_line("train", f"--config-dir={tiny_dir}", f"resume={whole}")
    assert code == 0, said
    assert f"metalab eval run={whole} evaluates the last" in said
    assert (whole / "generation0" / "last.pt").stat().st_mtime_ns == before
    assert_same_run(whole / "generation1", whole.parent / "kept" / "generation1")
    assert (whole / "generations.json").read_text() == (whole.parent / "kept" / "generations.json").read_text()
    code, said = command_line("eval", f"--config-dir={tiny_dir}", f"run={whole}", "hydra.run.dir=eval")
    assert code == 0, said
    assert record(tmp_path / "eval")["run"] == str(whole / "generation1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), r"^train\.generations=2: each generation learns from the one before, by reg\.distill: type reg=distill"),
        (("reg=distill", "train.init=some"), r"^train\.generations=2 with train\.init=some: each generation starts"),
        (("reg=distill", "eval.folds=2"), r"^train\.generations=2 with eval\.folds=2"),
        # generation 0 has no teacher, and would be trained to its end before these are told
        (("reg=distill", "reg.distill.weight=5"), r"^reg\.distill\.weight=5: expected a share from 0 to 1"),
        (("reg=distill", "algo=reptile", "algo.steps=2"), r"^reg\.distill works on the loss of the query, from which"),
        (("reg=distill", "algo=mann"), r"^reg\.distill compares predictions on queries, and algo=mann"),
        (("reg=distill", "train.bootstrap=true"), r"^train\.generations=2 with train\.bootstrap=true: each generation"),
        (("reg=distill", "train.bootstrap=classes"), r"^train\.generations=2 with train\.bootstrap=classes: each"),
    ],
)
def test_what_has_no_generations_is_refused(small, tmp_path, words, said):
    base = EPISODES if any(word.startswith("algo=") for word in words) else PLAIN
    with pytest.raises(UserError, match=said):
        train.run(small(*base, "train.generations=2", *words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_mistyped_repeat_of_generations_leaves_their_settings_as_they_were(generations, small):
    out, _ = generations
    before = (out / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"not optim\.lr=0\.5 \(the run has"):
        train.run(small(*PLAIN, "reg=distill", "train.generations=2", "optim.lr=0.5"), out)
    assert (out / "config.yaml").read_text() == before


def test_another_training_in_the_folder_of_generations_is_refused(generations, small):
    out, _ = generations
    before = (out / "config.yaml").read_text()
    for run in (lambda: train.run(small(*PLAIN), out), lambda: train_in_phases(small, out, PLAIN, PLAIN)):
        with pytest.raises(UserError, match=r"already holds generations \(train\.generations\): go on with them"):
            run()
    assert (out / "config.yaml").read_text() == before
    assert not (out / "best.pt").exists()


LEARNED = ("algo=maml", "algo.test_steps=1", "reg=learned_loss", *EPISODES)


@pytest.mark.slow
def test_a_learned_loss_is_kept_for_the_test(maml, small, tmp_path):
    cfg = small(*LEARNED, "optim.lr=0.5")
    train.run(cfg, tmp_path / "run")
    learned = checkpoint.load(tmp_path / "run" / "best.pt")["net"]["reg_loss.log_temperature"]
    assert abs(learned) > 1e-3
    results = {}
    for name, words in {"as it is": (), "plain": ("reg=none",)}.items():
        evaluate.run([(tmp_path / "run", small(*LEARNED, *words))], tmp_path / name)
        results[name] = record(tmp_path / name)["loss"]
    assert results["as it is"] != results["plain"]
    with pytest.raises(UserError, match=r"^reg_loss\.log_temperature of reg is learned in training, and this run has"):
        evaluate.run([(maml, small(*LEARNED))], tmp_path / "refused")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("algo=protonet",), r"^reg\.learned_loss learns the loss of inner steps, and this algorithm has none"),
        (("algo=fomaml",), r"^reg\.learned_loss is learned through the inner steps, and algo\.first_order=true makes"),
        (("algo=imaml",), r"^reg\.learned_loss is learned through the inner steps, and algo=imaml differentiates none"),
        (("algo=reptile",), r"^reg\.learned_loss works on the loss of the query, from which this algorithm does not"),
        (("algo=maml", "reg.learned_loss.temperature=false"), r"^reg\.learned_loss learns nothing as it is set"),
    ],
)
def test_a_loss_that_cannot_be_learned_is_refused(small, words, said):
    with pytest.raises(UserError, match=said):
        training_setup(small("reg=learned_loss", *words))


def test_a_student_of_a_run_that_saw_a_target_says_so():
    one = torch.tensor([1])
    split = Split(torch.zeros(1, 1, 2, 2), one - 1, one, ["a"], ["a"])
    data = {"val": "", "unlabelled": "7 images of ink without labels"}
    saved = {"classes": ["b"], "data": data, "state": {"step": 1}}
    rest: Any = (torch.nn.Identity(), None, SimpleNamespace(name="baseline"), None)
    teacher = LoadedTeacher(Path("run"), "", saved, *rest, bn="running", classifies=True)
    known, said = teacher.seen({"train": split, "val": split})
    assert known == {"b"}
    assert "distilled from a run trained beside 7 images of ink without labels" in said
