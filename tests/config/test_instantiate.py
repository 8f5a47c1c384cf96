import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from metalab.config.instantiate import build, locate, settings
from metalab.config.paths import conf_dir
from metalab.config.schema import Eval, Task, Train
from metalab.core.errors import UserError
from metalab.tracking.run_folder import find_run


@dataclass
class Part:
    lr: float
    way: int
    steps: int = 5
    first_order: bool = False
    head: Literal["learned", "zero"] | None = "learned"
    rates: list[float] = field(default_factory=list)
    size: tuple[int, ...] = (1,)
    pair: tuple[int, float] = (1, 1.0)
    weights: dict[str, float] = field(default_factory=dict)
    root: Path | None = None
    name: str = "x"
    either: int | float = 0
    loss: Any = None


TARGET = f"{__name__}.Part"


def part(**values: Any) -> Part:
    return build(OmegaConf.create({"_target_": TARGET, "lr": 0.1, **values}), "algo", way=5)


def test_build_takes_yaml_and_given_fields():
    assert part() == Part(lr=0.1, way=5)
    assert part(steps=7, head=None, name="y").head is None
    node = OmegaConf.create({"seed": 3, "algo": {"_target_": TARGET, "lr": 1, "steps": "${seed}", "rates": [1, 2]}})
    built = build(node.algo, "algo", way=5)
    assert (built.steps, built.rates) == (3, [1.0, 2.0])
    plain = dict(node.algo.items())  # a mapping that holds nodes
    assert build(plain, "algo", way=5) == built
    assert node.algo._target_ == TARGET  # the configuration is left as it was


@pytest.mark.parametrize(
    ("key", "given", "got"),
    [
        ("lr", 1, 1.0),
        ("steps", 1e4, 10000),
        ("rates", [1, 0.5], [1.0, 0.5]),
        ("size", [1, 2, 3], (1, 2, 3)),
        ("pair", [1, 2], (1, 2.0)),
        ("weights", {"a": 1}, {"a": 1.0}),
        ("root", "a/b", Path("a/b")),
        ("root", None, None),
        ("either", 2, 2),
        ("either", 2.0, 2.0),
        ("loss", [1, "a"], [1, "a"]),
    ],
)
def test_values_become_what_the_field_says(key, given, got):
    value = getattr(part(**{key: given}), key)
    assert value == got
    assert type(value) is type(got)
    if isinstance(got, (list, tuple)):
        assert [type(item) for item in value] == [type(item) for item in got]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "abc"}, "algo.lr=abc (text): expected a number, as in algo.lr=0.1"),
        ({"lr": True}, "algo.lr=true (a switch): expected a number, as in algo.lr=0.1"),
        ({"lr": None}, "algo.lr=null: expected a number, as in algo.lr=0.1"),
        ({"lr": "???"}, "algo.lr is not set: expected a number, as in algo.lr=0.1"),
        ({"steps": "???"}, "algo.steps is not set: expected a whole number, as in algo.steps=5"),
        ({"steps": 1.5}, "algo.steps=1.5: expected a whole number, as in algo.steps=5"),
        ({"steps": True}, "algo.steps=true (a switch): expected a whole number, as in algo.steps=5"),
        ({"steps": float("inf")}, "algo.steps=inf: expected a whole number, as in algo.steps=5"),
        ({"first_order": 2}, "algo.first_order=2: expected true or false, as in algo.first_order=true"),
        ({"first_order": 1}, "algo.first_order=1: expected true or false, as in algo.first_order=true"),
        ({"head": "zer"}, "algo.head=zer (text): expected one of learned, zero or null, as in algo.head=learned"),
        ({"rates": 0.1}, "algo.rates=0.1: expected a list, each item a number, as in algo.rates=[0.1,0.1]"),
        (
            {"rates": [0.1, "x"]},
            "algo.rates=[0.1,x]: expected a list, each item a number, as in algo.rates=[0.1,0.1]",
        ),
        (
            {"pair": [1, 2, 3]},
            "algo.pair=[1,2,3]: expected a list of 2: a whole number, a number, as in algo.pair=[5,0.1]",
        ),
        (
            {"weights": {"a": "b"}},
            "algo.weights={a:b} (a group): expected a group, each value a number, as in algo.weights={a:0.1}",
        ),
        ({"name": 5}, "algo.name=5: expected text, as in algo.name=name"),
        ({"root": 5}, "algo.root=5: expected a path or null, as in algo.root=a/folder"),
        ({"lrr": 0.2}, "algo.lrr=0.2: Part has no such setting. Did you mean algo.lr?"),
        (
            {"zzz": [1, None]},
            "algo.zzz=[1,null]: Part has no such setting. There is: either, first_order, head, loss, lr, name, pair, "
            "rates, root, size, steps, weights",
        ),
        ({"way": 3}, "algo.way=3: metalab sets this itself; remove the key"),
    ],
)
def test_mistake_in_a_value(values, message):
    with pytest.raises(UserError) as caught:
        part(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"lr": 1}, "algo._target_=null: expected the dotted path of a dataclass, as package.Class"),
        ({"_target_": "Part"}, "algo._target_=Part: expected a dotted path, as package.module.Name"),
        ({"_target_": "a b.c"}, "algo._target_=a b.c: expected a dotted path, as package.module.Name"),
        (
            {"_target_": "metalab.nope.X"},
            "algo._target_=metalab.nope.X: there is no module 'metalab.nope'; install it, or put its folder",
        ),
        ({"_target_": "nope.X"}, "algo._target_=nope.X: there is no module 'nope'; install it, or put its folder"),
        (
            {"_target_": "metalab.core.errors.UserErro"},
            "algo._target_=metalab.core.errors.UserErro: module metalab.core.errors has no 'UserErro'. Did you mean "
            "UserError?",
        ),
        (
            {"_target_": "metalab.core.errors.UserError"},
            "algo._target_=metalab.core.errors.UserError: expected a dataclass; decorate it with "
            "@dataclasses.dataclass",
        ),
        (
            {"_target_": "metalab.config.schema.Eval"},
            "algo: metalab.config.schema.Eval lacks the field 'way', which metalab sets",
        ),
        ({"_target_": TARGET, "lr": "${nope}"}, "algo: Interpolation key 'nope' not found"),
        (None, "algo=null: expected a group of settings, each as algo.<key>=<value>"),
        (5, "algo=5: expected a group of settings, each as algo.<key>=<value>"),
    ],
)
def test_mistake_in_a_target(node, message):
    with pytest.raises(UserError) as caught:
        build(OmegaConf.create(node) if isinstance(node, dict) else node, "algo", way=5)
    assert str(caught.value).startswith(message)


def test_what_a_module_imports_in_vain_is_no_mistake_of_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text("import nowhere_at_all\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        locate("broken_part.X", "algo._target_")
    assert locate("metalab.core.errors.UserError", "x") is UserError


ROOT = OmegaConf.load(conf_dir() / "train.yaml")
TASK = OmegaConf.load(conf_dir() / "task/fixed.yaml")


def test_shipped_settings_are_accepted():
    assert settings(Task, TASK, "task") == Task(5, 1, 15, None, None, None)
    train = settings(Train, ROOT.train, "train")
    assert (train.steps, train.val_every, train.monitor, train.bn) == (600, 100, "accuracy", None)
    assert settings(Eval, ROOT.eval, "eval") == Eval(600, None, "test", False, None)


@pytest.mark.parametrize(
    ("cls", "where", "values", "message"),
    [
        (Task, "task", {"way": 1}, "task.way=1: expected 2 or more, as in task.way=2"),
        (Task, "task", {"train_way": 1}, "task.train_way=1: expected 2 or more, as in task.train_way=2"),
        (Task, "task", {"shot": 0}, "task.shot=0: expected 1 or more, as in task.shot=1"),
        (Task, "task", {"shott": 3}, "task.shott=3: Task has no such setting. Did you mean task.shot?"),
        (Train, "train", {"steps": 0}, "train.steps=0: expected 1 or more, as in train.steps=1"),
        (Train, "train", {"steps": "many"}, "train.steps=many (text): expected a whole number, as in train.steps=5"),
        (Train, "train", {"minutes": 0}, "train.minutes=0: expected more than 0, or null for no limit"),
        (Train, "train", {"patience": 0}, "train.patience=0: expected 1 or more, as in train.patience=1"),
        (
            Train,
            "train",
            {"bn": "one"},
            "train.bn=one (text): expected one of batch, support or null, as in train.bn=batch",
        ),
        (Train, "train", {"monitor": "f1"}, "train.monitor=f1 (text): expected one of accuracy, loss, as in"),
        (Eval, "eval", {"episodes": 1}, "eval.episodes=1: expected 2 or more, as in eval.episodes=2"),
        (
            Eval,
            "eval",
            {"bn": "bach"},
            "eval.bn=bach (text): expected one of batch, support, one, running, target or null",
        ),
        (Eval, "eval", {"split": "tests"}, "eval.split=tests (text): expected one of train, val, test, as in"),
        (Eval, "eval", {"allow_overlap": 1}, "eval.allow_overlap=1: expected true or false, as in"),
    ],
)
def test_mistake_in_the_root_settings(cls, where, values, message):
    node = TASK if where == "task" else ROOT[where]
    with pytest.raises(UserError) as caught:
        settings(cls, OmegaConf.merge(node, values), where)
    assert str(caught.value).startswith(message)


def test_setting_that_yaml_lacks():
    with pytest.raises(UserError, match=r"^task.way is not set: expected a whole number, as in task.way=5$"):
        settings(Task, {"shot": 1}, "task")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["new", "middle/0", "old"]):
        folder = tmp_path / "outputs/train/day" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        if name != "new":
            (folder / "best.pt").touch()
            os.utime(folder / "best.pt", (1000 - age, 1000 - age))
    return Path("outputs/train/day")


def test_find_run(home):
    assert find_run("latest") == home / "middle/0"
    assert find_run(str(home / "old")) == home / "old"
    assert find_run((home / "old").absolute()) == (home / "old").absolute()


def test_find_run_says_what_there_is(home):
    listed = f"\nruns with best.pt, newest first:\n  {home}/middle/0\n  {home}/old"
    for given, problem in [
        ("nope", f"there is no folder nope in {Path.cwd()}{listed}"),
        (home / "new", f"{home}/new holds no best.pt yet: a run saves it when it first validates{listed}"),
        (home / "old/best.pt", f"{home}/old/best.pt is a file; give the run's folder, {home}/old{listed}"),
        (home / "middle", f"{home}/middle is not a run: it holds no best.pt\nruns with best.pt, newest first:\n"
         f"  {home}/middle/0"),
    ]:  # fmt: skip
        with pytest.raises(UserError) as caught:
            find_run(given)
        assert str(caught.value) == problem
    with pytest.raises(UserError) as caught:
        find_run("latest", holds="last.pt")
    assert str(caught.value) == f"no run in {Path.cwd()}/outputs/train holds last.pt; train one: metalab train"
