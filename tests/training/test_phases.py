"""train.phases: one training after another from the command line, gone on with as one, and what is kept is measured."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalab.core.errors import UserError
from metalab.evaluation.transfer.forgetting import summarize
from metalab.tracking import checkpoint
from metalab.tracking.run_folder import find_run
from metalab.training import loop, phases, train
from tests.conftest import SMALL
from tests.training.phases import composed, train_in_phases
from tests.training.test_resume import events, lines, same

REPLAY = "reg: replay, reg.replay.images: 60, reg.replay.how: reservoir"
THREE = f"[{{algo: anil}}, {{algo: protonet, {REPLAY}}}, {{algo: protonet, optim.lr: 0.01, {REPLAY}, steps: 2}}]"
FEW = ("train.meta_batch=2", "task.train_query=3")


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    """The pictures of a finished run take longer than its training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "save_final_figures", lambda *_: None)
        yield


def record(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def typed(command_line, tiny_dir):
    """Run `metalab train` with words for tiny data: typed(*words) -> exit code, what was printed."""
    return lambda *words: command_line("train", "--config-dir", str(tiny_dir), *SMALL, *FEW, *words)


@pytest.fixture
def killed(monkeypatch):
    """killed(n, run): run() ends in its n-th meta-step, counted over all phases."""

    def at(number: int, run):
        step, done = loop._step, [0]

        def stepped(*given):
            done[0] += 1
            if done[0] == number:
                raise KeyboardInterrupt
            return step(*given)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_step", stepped)
            return run()

    return at


@pytest.mark.slow
def test_killed_in_the_middle_of_the_second_phase_it_goes_on_bit_for_bit(
    typed, killed, command_line, tiny_dir, tmp_path
):
    def words(name: str) -> tuple[str, ...]:
        return (f"train.phases={THREE}", f"hydra.run.dir={tmp_path / name}")

    code, said = typed(*words("whole"))
    assert code == 0, said
    assert "after    on phase0   on phase1   on phase2" in said
    code, _ = killed(4 + 3, lambda: typed(*words("cut")))
    assert code == 130
    assert checkpoint.load(tmp_path / "cut/phase1/last.pt")["state"]["step"] == 2
    assert not (tmp_path / "cut/phase2/last.pt").exists()
    code, said = typed(*words("cut"))
    assert code == 1
    assert f"already holds a training in phases: go on with it, as metalab train resume={tmp_path / 'cut'}" in said
    go_on = ("train", "--config-dir", str(tiny_dir), f"resume={tmp_path / 'cut'}")
    code, said = command_line(*go_on, "optim.lr=3")
    assert code == 1
    assert "optim.lr=3: resume=" in said
    assert "goes on with the same phases and takes only device" in said
    code, said = command_line(*go_on)
    assert code == 0, said
    whole, cut = (record(tmp_path / name / "phases.json")["after"] for name in ("whole", "cut"))
    assert whole == cut
    for k in range(3):
        one, two = (tmp_path / name / f"phase{k}" for name in ("whole", "cut"))
        assert lines(one) == lines(two)
        assert events(one) == events(two)
        for name in ("last.pt", "best.pt"):
            a, b = (checkpoint.load(folder / name) for folder in (one, two))
            assert all(same(a[key], b[key]) for key in ("net", "optimizer", "random", "classes", "data")), (k, name)
    assert same(*(checkpoint.load(tmp_path / name / "phase1/memory.pt") for name in ("whole", "cut")))
    assert find_run(tmp_path / "cut") == tmp_path / "cut/phase2"


@pytest.fixture(scope="module")
def two(small, tmp_path_factory) -> tuple[Path, float]:
    """The folder of two phases of MAML-like methods on tiny data, and what the training returned."""
    out = tmp_path_factory.mktemp("phases") / "run"
    return out, train_in_phases(small, out, ("algo=anil", *FEW), (*FEW, "task.way=4"))


def test_after_its_own_phase_the_accuracy_is_the_one_that_chose_best(two):
    out, value = two
    found = record(out / "phases.json")["after"]
    for k in (0, 1):
        saved = checkpoint.load(out / f"phase{k}" / "best.pt")
        assert found[k]["accuracy"][k] == saved["state"]["best_accuracy"] == found[k]["validation"]
    assert value == found[1]["average"] == pytest.approx(sum(found[1]["accuracy"]) / 2)
    assert found[0]["accuracy"][1] is None  # a head for 5 classes says nothing of 4
    expected = summarize([row["accuracy"] for row in found])
    assert (found[1]["backward_transfer"], found[1]["forgetting"]) == expected[1:]
    with (out / "phases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["accuracy"] for row in rows] == [
        "" if a is None else str(a) for each in found for a in each["accuracy"]
    ]
    drawn = EventAccumulator(str(out)).Reload()
    assert [e.value for e in drawn.Scalars("phases/average")] == pytest.approx([each["average"] for each in found])


def test_a_phase_is_what_its_own_training_from_the_one_before_gives(two, small, tmp_path):
    out, _ = two
    train.run(small(*FEW, "task.way=4", f"train.init={out / 'phase0'}"), tmp_path / "alone")
    one, other = (checkpoint.load(folder / "last.pt") for folder in (tmp_path / "alone", out / "phase1"))
    assert same(one["net"], other["net"])
    assert set(one["classes"]) == set(other["classes"])


@pytest.mark.slow
def test_the_list_is_gone_through_again(typed, tmp_path):
    words = ("train.steps=2", "train.cycles=2", "train.phases=[{seed: 1}]")
    code, said = typed(*words, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, said
    assert [checkpoint.load(tmp_path / f"run/phase{k}/last.pt")["config"]["seed"] for k in range(2)] == [1, 1]
    assert checkpoint.load(tmp_path / "run/phase1/last.pt")["config"]["train"]["init"] == str(tmp_path / "run/phase0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train.phases=[]",), r"train\.phases=\[\]: expected a list of phases"),
        (("train.phases=[{algo: protonet},3]",), r"train\.phases\[1\]=3: expected a group of settings"),
        (("train.phases=[{algo: protonet},{stepz: 3}]",), r"train\.phases\[1\]: stepz: there is no such setting"),
        (("train.phases=[{algo: protonot}]",), r"train\.phases\[0\]: algo=protonot: there is no such option\."),
        (("train.phases=[{steps: 0}]",), r"train\.phases\[0\]: train\.steps=0: expected 1 or more"),
        (("train.phases=[{seed: 1},{train.init: a}]",), r"train\.phases\[1\]\.train\.init: a phase cannot set it"),
        (("train.phases=[{train: {phases: []}}]",), r"train\.phases\[0\]\.train\.phases: a phase cannot set it"),
        (("train.phases=[{algo: [a,b]}]",), r"train\.phases\[0\]\.algo=\[a,b\]: expected the name of an option"),
        (("train.phases=[{seed: 1}]", "eval.folds=3"), r"eval\.folds=3 with train\.phases: folds are of one training"),
        (("train.phases=[{seed: 1}]", "train.keep_classes=true"), r"train\.keep_classes=true with train\.phases: each"),
        (("train.phases=[{seed: 1}]", "train.cycles=0"), r"train\.cycles=0: expected 1 or more"),
        (("train.cycles=2",), r"train\.cycles=2 repeats train\.phases, and there are none"),
        (("train.keep_classes=true",), r"train\.keep_classes=true keeps the classes .*: type train\.init=RUN"),
        (("train.phases=[{seed: 1},{backbone.filters: 5}]",), r"train\.phases\[1\]: its backbone, or the channels"),
        (
            ("train.phases=[{data.seed: 0},{data.seed: 172}]",),
            r"train\.phases\[1\]: an earlier phase was trained on 6 of the 12 validation classes",
        ),
        (
            (f"train.phases=[{{seed: 1}},{{{REPLAY}, reg.replay.images: 19}}]".replace("reg.replay.images: 60, ", ""),),
            r"train\.phases\[1\]\.reg\.replay\.images=19: the memory needs 20 or more, 4 images of each of the 5",
        ),
        (
            (f"train.phases=[{{seed: 1}},{{algo: baseline, task.train_query: null, task.train_way: null, {REPLAY}}}]",),
            r"train\.phases\[1\]: reg\.replay: algo=baseline trains a classifier of this data's training classes alone",
        ),
    ],
)
def test_what_cannot_be_is_told_before_any_work(typed, tmp_path, words, said):
    code, printed = typed(*words, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 1
    assert re.search(said, printed), printed
    assert not (tmp_path / "run/phase0").exists()


def test_python_is_told_where_phases_are_composed(small, tmp_path):
    with pytest.raises(UserError, match=r"in Python call metalab\.training\.phases\.run"):
        train.run(small("train.phases=[{seed: 1}]"), tmp_path)


@pytest.mark.slow
def test_a_replay_without_a_share_is_off_to_the_last_digit(small, tmp_path):
    train_in_phases(small, tmp_path / "on", FEW, (*FEW, "reg=replay", "reg.replay.images=60"))
    assert (tmp_path / "on/phase0/memory.pt").is_file()
    nets = []
    for name, words in {"off": (), "none": ("reg=replay", "reg.replay.share=0", "reg.replay.images=60")}.items():
        for k, cfg in enumerate(composed(small, tmp_path / "on", FEW, (*FEW, *words))[1:]):
            train.run(cfg, tmp_path / name / f"{k}")
        nets.append(checkpoint.load(tmp_path / name / "0/last.pt")["net"])
    assert same(*nets)
    assert not same(nets[0], checkpoint.load(tmp_path / "on/phase1/last.pt")["net"])


def test_images_of_data_that_come_again_count_once_in_the_accuracy_of_all_classes():
    configs: Any = [SimpleNamespace(data={"root": name}) for name in ("a", "b", "a")]  # as train.cycles=2 has them
    assert phases._all_classes(configs, [0.5, 1.0, 0.5], [10, 30, 10]) == pytest.approx((5 + 30) / 40)
    assert phases._all_classes(configs[:2], [0.5, None], [10, None]) is None
