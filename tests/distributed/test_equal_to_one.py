"""Two processes come to what one does: weights, optimizer, log and validation, in float64, of every algorithm."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from metalab.config.paths import conf_dir
from tests.distributed.float64 import train_all
from tests.distributed.launch import ROOT, ended, started

ALGORITHMS = sorted(path.stem for path in (Path(conf_dir()) / "algo").glob("*.yaml"))
NEAR = 1e-12
# Three tasks: one process has one, the other two. Adam's eps makes steps of gradients that are rounding alone, as of a
# bias before batch norm: SGD does not, nor does Adam with a larger eps.
TASKS = ["train.meta_batch=3", "optim=sgd", "optim.lr=0.05"]
OTHERS = {  # what draws random numbers, reads several batches or has steps and batches of other sizes
    "vectorized": ["algo=maml", "engine=vectorized"],
    "chunks": ["algo=maml", "engine=vectorized", "engine.chunk=2"],
    "dropout": ["algo=maml", "reg=dropout"],
    "dropout_vectorized": ["algo=maml", "reg=dropout", "engine=vectorized"],
    "pgd": ["algo=protonet", "reg=adv_pgd"],
    "pgd_vectorized": ["algo=protonet", "reg=adv_pgd", "engine=vectorized"],
    "mixup": ["algo=protonet", "reg=[mixup,noise]", "engine=vectorized"],
    "mixstyle": ["algo=protonet", "reg=mixstyle"],
    "random_head": ["algo=maml", "algo.head_init=random"],
    "augment": ["algo=protonet", "reg=augment"],
    "augment_batches": ["algo=baseline", "reg=augment"],
    "learned_loss": ["algo=maml", "reg=learned_loss"],
    "clipped": ["algo=maml", "optim.clip_norm=0.01"],
    "seven": ["algo=maml", "train.meta_batch=7", "train.val_episodes=5", "optim=adam", "optim.eps=1e-3"],
    "eight": ["algo=protonet", "train.meta_batch=8"],
}


def yaml_of(algo: str) -> str:
    """Return an algorithm's YAML, and that of the one that it is made from."""
    text = (Path(conf_dir()) / "algo" / f"{algo}.yaml").read_text(encoding="utf-8")
    made_from = re.search(r"^defaults: \[(\w+)", text, re.MULTILINE)
    return text if made_from is None else text + yaml_of(made_from[1])


def words_of(algo: str) -> list[str]:
    """Return the words of a training of an algorithm with inner steps so small that they do not amplify rounding."""
    text = yaml_of(algo)
    small = {"steps": 2, "cg_steps": 2, "lr": 1e-4 if algo == "reptile" else 0.05}  # its Adam steps by rounding alone
    own = [f"algo.{key}={most}" for key, most in small.items() if f"\n{key}: " in text]
    batch = ["algo.mini_batch=6", "task.train_way=null"] if "\nmini_batch: " in text else []
    return [f"algo={algo}", *own, *batch]


CASES = {algo: [*TASKS, *words_of(algo)] for algo in ALGORITHMS}
CASES |= {
    name: [*(TASKS[: 1 if "optim=adam" in words else None]), *words_of(words[0].removeprefix("algo=")), *words[1:]]
    for name, words in OTHERS.items()
}


REFUSED: tuple[str, ...] = ()  # cases that one process does not train on these tiny data either
QUICK = ("protonet", "dropout_vectorized", "seven")


def train_both_ways(names: Iterable[str], folder: Path, device: str = "cpu") -> Path:
    """Train each case in this process, below one/, and in two that run beside it, below two/."""
    cases = {name: [*CASES[name], f"device={device}"] for name in names}
    (folder / "two").mkdir()
    (folder / "one").mkdir()
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    words = ("-m", "tests.distributed.float64", str(folder / "cases.json"), str(folder / "two"), device)
    both = started(2, *words, cwd=ROOT)
    train_all(cases, folder / "one")
    for code, output in ended(both):
        assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train_both_ways(QUICK, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def all_trained(tmp_path_factory) -> Path:
    return train_both_ways([name for name in CASES if name not in QUICK], tmp_path_factory.mktemp("all"))


def farthest(one: Any, two: Any) -> float:
    """Return the largest difference between numbers in the same places, of numbers above 1 by their size."""
    (ours, shape), (theirs, other) = tree_flatten(one), tree_flatten(two)
    assert shape == other
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, (Tensor, float)):
            a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
            worst = max([worst, *((a - b).abs() / b.abs().clamp(min=1)).flatten().tolist()])
        else:
            assert a == b
    return worst


def logged(out: Path) -> list[dict[str, float]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time/step_ms"} for line in lines]


def assert_equal(folder: Path, case: str) -> None:
    one, two = (folder / side / case for side in ("one", "two"))
    refusals = [side.with_suffix(".refused") for side in (one, two)]
    said = [path.read_text(encoding="utf-8") for path in refusals if path.exists()]
    if said:
        assert case in REFUSED, said
        assert len(said) == 2, said
        assert said[0] == said[1]
        pytest.skip(f"one process does not train it either: {said[0]}")
    ours, theirs = (torch.load(side / "last.pt", weights_only=True) for side in (one, two))
    for part in ("net", "optimizer"):
        assert farthest(theirs[part], ours[part]) < NEAR, part
    assert farthest(theirs["state"]["window"], ours["state"]["window"]) < NEAR
    assert farthest(logged(two), logged(one)) < NEAR
    assert torch.equal(theirs["random"]["cpu"], ours["random"]["cpu"])  # so that either goes on as the other would


@pytest.mark.parametrize("case", QUICK)
def test_two_processes_are_equal_to_one(trained, case):
    assert_equal(trained, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in CASES if name not in QUICK])
def test_two_processes_are_equal_to_one_for_every_algorithm(all_trained, case):
    assert_equal(all_trained, case)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are needed")
def test_two_gpus_are_equal_to_one(tmp_path):
    names = ("protonet", "maml", "vectorized", "dropout_vectorized", "baseline")
    folder = train_both_ways(names, tmp_path, "cuda")
    for name in names:
        ours, theirs = (torch.load(folder / side / name / "last.pt", weights_only=True) for side in ("one", "two"))
        assert farthest(theirs["net"], ours["net"]) < 1e-9, name  # cuDNN's sums differ from run to run
        assert farthest(logged(folder / "two" / name), logged(folder / "one" / name)) < 1e-9, name
