"""The command line in a folder of its own."""

import logging
import sys
import types

import pytest

import metalab.evaluation
import metalab.training
from tests.cli.bench import Bench


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    bench = Bench(monkeypatch, capsys)
    train, evaluate = types.ModuleType("train"), types.ModuleType("evaluate")
    train.run = bench.train  # type: ignore[attr-defined]
    evaluate.run = lambda runs, out: bench.evaluated.append((runs, out))  # type: ignore[attr-defined]
    monkeypatch.setattr(metalab.training, "train", train, raising=False)
    monkeypatch.setattr(metalab.evaluation, "evaluate", evaluate, raising=False)
    monkeypatch.setattr("metalab.tracking.sweep_table.write", lambda jobs, told: None)  # nothing was evaluated
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("COMP_LINE", raising=False)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield bench
    root.handlers[:], root.level = handlers, level
