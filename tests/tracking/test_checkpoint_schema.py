"""A checkpoint is checked before it is used: of 618 altered ones 159 had ended in a traceback."""

import math
import shutil
import zipfile
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from metalab.core.errors import UserError
from metalab.tracking import checkpoint, checkpoint_schema
from metalab.training import train
from tests.configs import evaluation_setup
from tests.training.test_resume import hashes

WORDS = ("algo=maml", "train.meta_batch=1", "train.log_every=3")
HUGE = torch.zeros(1).expand(10**9)  # a shape alone: four bytes in the file
OTHERS = [None, True, -1, 2.5, math.nan, 1e30, 2**70, "x", [], {}, [{"a": [1]}], torch.zeros(2, 3), HUGE]
GONE = object()


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train.run(small(*WORDS), out)
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def places(node: Any, at: tuple = ()) -> Iterator[tuple]:
    """Give the way to each value of a checkpoint; of what is numbered, the first two."""
    items = list(node.items() if isinstance(node, dict) else enumerate(node))
    for key, value in [(key, value) for key, value in items if not (isinstance(key, int) and key > 1)]:
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*at, key))


def altered(saved: Any, at: tuple, value: Any) -> Any:
    """Return a checkpoint with another value at a place, or with none; what is elsewhere is shared."""
    key, *rest = at
    made = copy(saved)
    if value is GONE and not rest:
        del made[key]
    else:
        made[key] = altered(saved[key], tuple(rest), value) if rest else value
    return made


def alter(path: Path, at: tuple, value: Any) -> None:
    torch.save(altered(torch.load(path, weights_only=True), at, value), path)


def test_what_a_run_writes_fits(trained):
    for name in ("best.pt", "last.pt"):
        saved = checkpoint_schema.load_checked(trained / name)
        assert list(checkpoint_schema.mismatches(saved)) == []
        assert saved["state"]["step"] in (2, 4)


def test_no_alteration_is_a_traceback_and_each_names_a_key(trained):
    """Each of some hundred values left out, and each of other kinds in its place."""
    whole = checkpoint.load(trained / "last.pt")
    told, count = set(), 0
    for at in places(whole):
        for value in (GONE, *OTHERS):
            for key, _, expected in checkpoint_schema.mismatches(altered(whole, at, value)):
                told.add(key)
                assert expected
                assert key.split(".")[0] == at[0], (at, value)
                break
            count += 1
    assert count > 1000
    assert told >= set(checkpoint_schema.EXPECTED) - {"optimizer"}


ALTERED = [
    (("net", "body.0.0.weight"), GONE, "net.body.0.0.weight is nothing, expected a tensor of shape [4, 1, 3, 3]"),
    (("net", "body.0.0.weight"), torch.zeros(2), "net.body.0.0.weight is a tensor of shape [2], float32, expected a"),
    (("net", "body.0.0.weight"), HUGE, "net.body.0.0.weight is a tensor of shape [1000000000], float32, expected a "),
    (("net", "more"), torch.zeros(2), "net.more is a tensor of shape [2], float32, expected nothing of that name"),
    (("optimizer", "param_groups"), [], "optimizer.param_groups is a list of 0, expected 1 groups"),
    (("optimizer", "param_groups", 0, "params"), [0], "optimizer.param_groups.0.params is a list of 1, expected "),
    (("optimizer", "state", 0, "exp_avg"), GONE, "optimizer.state.0.exp_avg is nothing, expected a tensor of shape"),
    (("optimizer", "state", 0, "exp_avg"), torch.zeros(3), "optimizer.state.0.exp_avg is a tensor of shape [3], "),
    (("optimizer", "state", 0, "step"), "x", "optimizer.state.0.step is x, expected a tensor of shape []"),
    (("optimizer", "state", 99), {}, "optimizer.state.99 is a group of 0, expected a group for a parameter, 0 to "),
    (("state", "step"), math.nan, "state.step is nan, expected a whole number, 0 or more"),
    (("state", "step"), GONE, "state.step is nothing, expected a whole number, 0 or more"),
    (("state", "seconds"), math.nan, "state.seconds is nan, expected a number, 0 or more"),
    (("state", "window"), [HUGE], "state.window is a list of 1, expected a list of tensors of shape [4] or [5]"),
    (("state", "more"), 1, "state.more is 1, expected one of best, best_accuracy, busy, "),
    (("random", "cpu"), torch.zeros(5056, dtype=torch.uint8), "random.cpu is a tensor of shape [5056], uint8, "),
    (("classes",), "abc", "classes is abc, expected a list of class ids"),
    (("config", "algo", "name"), GONE, "config.algo.name is nothing, expected text"),
    (("config", "seed"), HUGE, "config is a group of "),
    (("data", "val"), None, "data.val is null, expected text"),
]


@pytest.mark.parametrize(("at", "value", "said"), ALTERED, ids=[said for _, _, said in ALTERED])
def test_resume_takes_no_altered_checkpoint_and_writes_nothing(run, small, at, value, said):
    alter(run / "last.pt", at, value)
    before = hashes(run)
    with pytest.raises(UserError) as error:
        train.run(small(*WORDS, "train.steps=5", f"resume={run}"), run)
    assert str(error.value).startswith(f"{run}/last.pt: {said}")
    assert str(error.value).endswith(
        "The file was altered or is damaged: nothing of it was used, and nothing written. Take another checkpoint of "
        "the run, or train again"
    )
    assert hashes(run) == before


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (("shape",), [1, 10**9, 10**9], "best.pt: shape is a list of 3, expected channels, height and width of"),
        (("train_way",), 10**9, "best.pt: train_way is 1000000000, expected a whole number of classes"),
        (("classes",), None, "best.pt: classes is null, expected a list of class ids"),
        (("net", "body.0.0.weight"), torch.zeros(2), "the checkpoint does not fit algo=maml and the backbone as given"),
        (("net",), {}, "the checkpoint does not fit algo=maml and the backbone as given"),
    ],
    ids=["shape", "way", "classes", "weight", "net"],
)
def test_eval_takes_no_altered_checkpoint(run, small, at, value, said):
    alter(run / "best.pt", at, value)
    with pytest.raises(UserError) as error:
        evaluation_setup(run, small(*WORDS, "data.absent="))
    assert said in str(error.value)


@pytest.mark.parametrize("filters", [10**6, 10**9])
def test_settings_of_a_net_that_no_memory_holds_are_refused_before_it_is_made(run, small, filters):
    cfg = small(*WORDS, "data.absent=", f"backbone.filters={filters}")
    with pytest.raises(UserError, match=r"the settings make a net of ([0-9,]{14,}|inf) numbers, and the checkpoint's"):
        evaluation_setup(run, cfg)


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the file's records anew, each changed."""
    with zipfile.ZipFile(path) as held:
        records = {name: held.read(name) for name in held.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in records.items():
            file.writestr(name, change(name, content))


def test_what_would_unpack_to_more_than_the_file_has_is_refused(run):
    repacked(run / "best.pt", lambda name, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint that can be .*\(its parts are compressed\)"):
        checkpoint_schema.load_checked(run / "best.pt")


def test_a_tensor_whose_numbers_are_not_in_the_file_is_refused(run):
    """torch's reader would take what lies behind them in the memory."""
    path = run / "best.pt"
    torch.save({"format": 1, "net": {"a": torch.zeros(10**6)}}, path)
    repacked(path, lambda name, content: content[:64] if "/data/" in name else content)
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint that can be read: "):
        checkpoint.load(path)


@pytest.mark.parametrize("given", [torch.zeros(3), None, "1", 1.0, True])
def test_a_format_that_is_no_number(tmp_path, given):
    torch.save({"format": given}, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt is "):
        checkpoint.load(tmp_path / "best.pt")
