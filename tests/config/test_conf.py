"""Every YAML file in conf/ is composed, names objects that exist and explains each of its keys."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from metalab.algorithms.build import build_algorithm
from metalab.cli.run_overrides import GROUPS
from metalab.config.instantiate import build, locate, parts_of, settings
from metalab.config.paths import conf_dir
from metalab.config.schema import Demo
from metalab.training.optimizers import Clip, LRSchedule

FILES = sorted(path.relative_to(conf_dir()) for path in conf_dir().rglob("*.yaml"))
OPTIONS = [(path.parts[0], path.stem) for path in FILES if len(path.parts) == 2]


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose(name, list(overrides))


def targets(node: DictConfig, where: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items_ex(resolve=False):
        if key == "_target_":
            yield value, f"{where}_target_"
        elif isinstance(value, DictConfig):
            yield from targets(value, f"{where}{key}.")


def test_every_file_belongs_to_a_known_group():
    assert {group for group, _ in OPTIONS} <= set(GROUPS)
    commands = {"train.yaml", "eval.yaml", "predict.yaml", "export.yaml", "compare.yaml", "demo.yaml"}
    shared = {"schedule_and_clip.yaml", "search_base.yaml"}
    assert {path.name for path in FILES if len(path.parts) == 1} == {*commands, *shared}
    assert {option for group, option in OPTIONS if group == "task"} >= {
        "fixed",
        "5way5shot",
        "20way1shot",
        "20way5shot",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_names_what_exists(group, option):
    cfg = composed(f"{group}={option}")
    if group == "experiment":
        assert composed(f"experiment={option}", "train.steps=1").train.steps == 1
    elif group == "search":
        assert (cfg.algo.name, cfg.train.prune_after) == (option, 5)
        check_space(option, cfg)
    elif option == "none":
        assert set(cfg[group]) == (
            {"eps", "norm", "on", "support"} if group == "attack" else set()
        )  # what attacks share
    else:
        assert len(cfg[group]) > 0
    for target, where in targets(cfg):
        locate(target, where)


def check_space(method: str, cfg: DictConfig) -> None:
    """Hold a search to keys that its method has, and their rates to a log scale."""
    space = OmegaConf.load(conf_dir() / f"search/{method}.yaml").hydra.sweeper.params
    assert len(space) >= 2
    for key, values in space.items():
        assert OmegaConf.select(cfg, key, default=...) is not ..., key
        if key.endswith(".lr") and method != "reptile":  # whose outer rate is a share
            assert values.startswith("tag(log, interval("), key


QUICK = ("aq", "omniglot_siamese")  # of the experiments: one with several regularizers, one that begins with another


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(option, marks=() if option in QUICK else pytest.mark.slow)
        for group, option in OPTIONS
        if group == "experiment"
    ],
)
def test_every_option_composes_with_every_experiment(experiment):
    """One option of each group at a time, so that every option of every group comes with the experiment."""
    groups = {g: [option for group, option in OPTIONS if group == g] for g, _ in OPTIONS if g != "experiment"}
    whole = set(composed(f"experiment={experiment}"))
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        for i in range(max(map(len, groups.values()))):
            chosen = [f"{group}={options[i % len(options)]}" for group, options in groups.items()]
            assert set(compose("train", [f"experiment={experiment}", *chosen])) == whole, chosen


def test_demo_has_the_settings_of_predict_and_its_own():
    predict, demo = composed(name="predict"), composed(name="demo")
    assert set(demo) - set(predict) == {"demo"}
    assert all(demo[key] == predict[key] for key in predict)
    assert settings(Demo, demo.demo, "demo") == Demo("127.0.0.1", 7860, False)


def test_eval_knows_all_that_train_knows():
    train, evaluation = composed(), composed(name="eval")
    assert set(evaluation) - set(train) == {"run", "ensemble"}
    assert all(evaluation[key] == train[key] for key in train)


@pytest.mark.parametrize(
    ("experiment", "rate", "way"),
    [
        ("omniglot_maml", 0.4, 5),
        ("omniglot_maml_20way", 0.1, 20),
        ("omniglot_fomaml", 0.4, 5),
        ("omniglot_anil", 0.1, 20),
        ("omniglot_metacurvature", 0.4, 5),
        ("miniimagenet_maml", 0.01, 5),
        ("miniimagenet_maml_5shot", 0.01, 5),
    ],
)
def test_a_rate_copied_without_its_unit(experiment, rate, way):
    """MAML's code has way times our loss in its inner steps, as tests/algorithms/test_maml.py has it by hand."""
    cfg = composed(f"experiment={experiment}")
    assert (cfg.task.way, cfg.algo.lr) == (way, pytest.approx(rate * way))
    assert cfg.algo.get("head_std") == (1.0 if "omniglot" in experiment else None)
    assert not cfg.algo.adapt_norm  # with the head at N(0, 1) a first step of 2.0 that moves the norms throws the net


@pytest.mark.parametrize("experiment", ["miniimagenet_maml", "miniimagenet_maml_5shot"])
def test_a_clip_copied_without_its_unit(experiment):
    """MAML's code clips the meta-gradient of the sum over all queries divided by the shots at 10."""
    cfg = composed(f"experiment={experiment}")
    assert cfg.optim.clip_value == pytest.approx(10 * cfg.task.shot / (cfg.task.way * cfg.task.train_query), rel=1e-3)


def test_miniimagenet_maml_is_its_papers_and_codes():
    for shot, tasks in {1: 4, 5: 2}.items():
        cfg = composed(f"experiment=miniimagenet_maml{'' if shot == 1 else '_5shot'}")
        assert (cfg.task.way, cfg.task.shot, cfg.task.train_query, cfg.train.meta_batch) == (5, shot, 15, tasks)
        assert (cfg.algo.steps, cfg.algo.test_steps, cfg.backbone.filters) == (5, 10, 32)
        assert (cfg.optim.lr, cfg.train.steps) == (0.001, 60000)


def test_omniglot_maml_20way_is_its_papers():
    cfg = composed("experiment=omniglot_maml_20way")
    assert (cfg.algo.steps, cfg.algo.test_steps, cfg.train.meta_batch, cfg.train.steps) == (5, 5, 16, 60000)
    assert (cfg.task.shot, cfg.task.train_query, cfg.backbone.strided, cfg.optim.clip_value) == (1, 1, True, None)


AS_THEIR_CODES: dict[str, dict[str, object]] = {  # what was called a paper's and was not; the line is in each YAML
    "omniglot_reptile": {"backbone.strided": True, "backbone.mean": False},
    "omniglot_imaml": {"backbone.strided": True, "backbone.mean": False, "optim.eps": 0.001 * 2 / 11},
    "omniglot_mamlpp": {
        "backbone.pooled": 4,
        "algo.first_order_share": 0.0,
        "algo.adapt_norm": False,
        "algo.lr": 0.1,
        "train.steps": 50000,
        "optim.final": 0.01,
    },
    "omniglot_mann": {"optim.lr": 1e-4, "optim.alpha": 0.95, "optim.momentum": 0.9, "reg.augment.rotation": 30.0},
    "omniglot_protonet": {
        "train.steps": 10000 * 100,
        "train.val_every": 100,
        "train.patience": 200,
        "optim.every": 2000,
    },
    "omniglot_relation": {"backbone.unpadded": 2, "optim.clip_apart": True, "optim.clip_norm": 0.5},
    "omniglot_covamnet": {"algo.unit": "channel"},
    "omniglot_r2d2": {
        "algo.lam": 50.0,
        "algo.learn_lam": False,
        "algo.mean": True,
        "algo.ones": True,
        "optim.lr": 5e-3,
    },
    "omniglot_baseline": {"algo.mini_batch": 16, "train.steps": 5 * 4112 * 20 // 16},
    "omniglot_baselinepp": {"algo.mini_batch": 16, "train.steps": 5 * 4112 * 20 // 16, "algo.scale": 10.0},
    "aq": {
        "algo.temperature": 64 * 5 * 5,
        "algo.learned_temperature": True,
        "optim.lr": 0.1,
        "optim.nesterov": True,
        "optim.weight_decay": 5e-4,
        "optim.milestones": [20000, 40000, 50000],
        "reg.augment.crop": 8,
    },
    "rmaml": {"algo.lr": 0.01, "algo.first_order": True, "train.steps": 15000},
    "adml": {"algo.lr": 0.01},
    "omniglot_boil": {"algo.lr": 0.5},
    "rfs_distill": {
        "algo.C": 1.0,
        "algo.mini_batch": 64,
        "train.steps": 100 * 64 * 600 // 64,
        "train.generations": 2,
        "optim.lr": 0.05,
        "optim.nesterov": False,
        "optim.weight_decay": 5e-4,
        "optim.milestones": [60 * 600, 80 * 600],
        "reg.distill.weight": 0.5,
        "reg.distill.temperature": 4.0,
        "reg.augment.crop": 8,
        "reg.augment.jitter": 0.4,
        "backbone.mean": True,
    },
}


@pytest.mark.parametrize("experiment", AS_THEIR_CODES)
def test_as_its_paper_has_it_where_it_was_not(experiment):
    cfg = composed(f"experiment={experiment}")
    for key, value in AS_THEIR_CODES[experiment].items():
        got = OmegaConf.select(cfg, key)
        assert got == (pytest.approx(value, rel=0.02) if isinstance(value, float) else value), key


NEW_KEYS = {  # which a run from before them does not name
    "algo=maml": {"head_std", "adapt_norm"},
    "algo=anil": {"head_std", "adapt_norm"},
    "algo=boil": {"head_std", "adapt_norm"},
    "algo=metacurvature": {"head_std", "adapt_norm", "transform", "body"},
    "algo=mamlpp": {"adapt_norm"},
    "algo=covamnet": {"unit"},
    "algo=r2d2": {"learn_lam", "mean", "ones"},
    "backbone=conv4": {"unpadded"},
    "backbone=resnet12": {"mean"},
    "backbone=torchvision": {"lora"},
    "backbone=timm": {"lora"},
    "optim=adam": {"eps", "milestones", "shares", "clip_apart"},
    "optim=sgd": {"milestones", "shares", "clip_apart"},
}


@pytest.mark.parametrize("choice", NEW_KEYS)
def test_a_run_from_before_a_key_is_built_as_it_was(choice):
    group = choice.partition("=")[0]
    node = composed(choice)[group]
    old = {key: value for key, value in node.items() if key not in NEW_KEYS[choice]}
    assert len(old) == len(node) - len(NEW_KEYS[choice])
    if group == "algo":
        assert build_algorithm(old, 5, test=False) == build_algorithm(node, 5, test=False)
    elif group == "optim":
        rates, clips, rests = zip(*(parts_of(n, LRSchedule, Clip) for n in (old, node)), strict=True)
        for kind, (before, now) in {LRSchedule: rates, Clip: clips}.items():
            assert settings(kind, before, "optim") == settings(kind, now, "optim")
        assert build(rests[0], "optim") == build(rests[1], "optim")
    else:
        assert build(old, group) == build(node, group)


def test_task_presets():
    sizes = {name: composed(f"task={name}").task for name in ("fixed", "5way5shot", "20way1shot", "20way5shot")}
    got = {name: (task.way, task.shot, task.query, task.train_way) for name, task in sizes.items()}
    assert got == {
        "fixed": (5, 1, 15, None),
        "5way5shot": (5, 5, 15, None),
        "20way1shot": (20, 1, 15, None),
        "20way5shot": (20, 5, 15, None),
    }


def test_who_overrides_whom(tmp_path):
    """An algorithm may choose the optimizer, an experiment may choose anew, the command line has the last word."""
    files = {
        "algo/mine.yaml": "defaults: [{override /optim@_global_.optim: sgd}]\n_target_: a.B\n",
        "experiment/e.yaml": "# @package _global_\ndefaults: [{override /algo: mine}]\n"
        "algo: {lr: 5}\noptim: {lr: 7}\ntrain: {steps: 9}\n",
        "experiment/f.yaml": "# @package _global_\n"
        "defaults: [e, {override /optim: adamw}, {override /reg: [l2, dropout]}]\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def choose(*words: str) -> DictConfig:
        return composed(f"hydra.searchpath=[{tmp_path}]", *words)

    sgd, adam, adamw = (composed(f"optim={name}").optim for name in ("sgd", "adam", "adamw"))
    assert choose("algo=mine").optim == sgd
    assert choose("algo=mine", "optim=adam").optim == adam
    e = choose("experiment=e")
    assert (e.algo, e.optim, e.train.steps) == ({"_target_": "a.B", "lr": 5}, {**sgd, "lr": 7}, 9)
    f = choose("experiment=f")
    assert f.optim == {**adamw, "lr": 7}
    assert list(f.reg) == ["l2", "dropout"]
    last = choose("experiment=f", "optim=adam", "optim.lr=2", "reg=none", "train.steps=3")
    assert (last.optim, last.reg, last.train.steps) == ({**adam, "lr": 2}, {}, 3)


def unexplained(text: str) -> list[str]:
    """Return the keys with a value that have no comment, neither on their line nor on the one above."""
    lines = text.splitlines()

    def walk(node: yaml.Node | None) -> Iterator[str]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            line = key.start_mark.line
            above = lines[line - 1].lstrip() if line else ""
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                yield from walk(value)
            elif key.value in ("defaults", "_target_"):  # Hydra's own
                continue
            elif not (re.search(r"\s#\s*\S", lines[line]) or re.match(r"#\s*\S", above)):
                yield key.value

    return list(walk(yaml.compose(text)))


def test_unexplained_keys_are_found():
    assert unexplained("a: 1\nb: 2 # why\n# how\nc: 3\nd:\n  e: 4\n  f: 5 # so\ng: [1] #\n") == ["a", "e", "g"]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_key_is_explained(path: Path):
    assert unexplained((conf_dir() / path).read_text()) == []


def test_no_interpolation_of_hydra_outside_its_node():
    for path in FILES:
        node = OmegaConf.load(conf_dir() / path)
        assert isinstance(node, DictConfig)
        node.pop("hydra", None)
        assert "${hydra:" not in OmegaConf.to_yaml(node), path
    assert "override_dirname" not in "".join((conf_dir() / path).read_text() for path in FILES)
