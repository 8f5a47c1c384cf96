"""The benchmarks run: what they print is measured elsewhere."""

import importlib.util
import json
from pathlib import Path

import pytest


def script(name: str):
    """Load scripts/NAME.py as a module."""
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sampler_is_measured_beside_learn2learns(tmp_path, capsys):
    words = ["--smoke", "--device", "cpu", "--folder", str(tmp_path), "--json", str(tmp_path / "rates.json")]
    rates = script("bench_sampler").main(words)
    said = capsys.readouterr().out
    assert list(rates) == [
        "metalab, images in memory",
        "learn2learn, images in memory",
        "metalab, mapped, 2 threads",
        "learn2learn, mapped",
    ]
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())
    assert json.loads((tmp_path / "rates.json").read_text())["rates"] == rates
    assert "x learn2learn, mapped" in said
    assert [path.name for path in tmp_path.iterdir()] == ["rates.json"]  # the images are gone


@pytest.mark.slow
def test_the_attacks_cost_is_measured_against_what_it_needs(capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    costs = script("bench_attack").main(["--smoke", "--device", "cpu"])
    assert list(costs) == ["maml learn2learn", "maml vectorized", "protonet learn2learn", "protonet vectorized"]
    assert all(0.9 < operations <= 1.3 and time > 0 for operations, time in costs.values())  # counted, so no clock
    assert capsys.readouterr().out.count("\n") == 5
