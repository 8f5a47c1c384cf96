"""The benchmarks run: what they print is measured elsewhere."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torchvision import models

from metalab.config.experiment import read_config
from metalab.config.paths import conf_dir
from tests.data.folder import tree


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


@pytest.fixture
def pictures_of_classes(tmp_path):
    """A folder of six classes of six pictures."""
    tree(tmp_path / "pictures", classes=6, images=6)
    return tmp_path / "pictures"


@pytest.fixture
def frozen(monkeypatch):
    """scripts/frozen_table.py, whose main takes its words: frozen(*words)."""
    module = script("frozen_table")

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["frozen_table.py", *words])
        module.main()

    return module, run


def test_every_cell_of_the_frozen_table_composes(frozen):
    module, _ = frozen
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        for words in (*module.DATA.values(), *module.METHODS.values(), *module.TUNED.values()):
            data = () if words in module.DATA.values() else ("data=cifarfs",)
            net = ("backbone=torchvision", "backbone.name=mobilenet_v2", "backbone.weights=DEFAULT")
            read_config(compose("eval", ["run=null", *net, *data, *words]))


@pytest.mark.slow
def test_the_frozen_table_is_printed_with_paired_differences(
    frozen, pictures_of_classes, capsys, monkeypatch, tmp_path
):
    module, run = frozen
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(3)
    torch.save(models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "net.pth")
    net = f"backbone=torchvision backbone.name=mobilenet_v3_small backbone.weights={tmp_path / 'net.pth'}"
    folder = ("data=folder", "data.size=32", "data.ratios=[0,0,1]", "task.query=3")
    monkeypatch.setattr(module, "DATA", {"own": folder})
    monkeypatch.setattr(module, "FOLDER", {"own": pictures_of_classes.name})
    words = ("--root", str(pictures_of_classes.parent), "--net", f"{net} backbone.classes=none", "--episodes", "6")
    run(*words, "--size", "32", "--shot", "1", "--methods", "simpleshot, median", "bdcspn", "finetune, LoRA")
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| own")]
    assert [row[3] for row in rows] == ["simpleshot", "simpleshot, median", "bdcspn", "finetune, LoRA"]
    assert [row[5] for row in rows][:2] == ["", "+0.0 ± 0.0"]  # of one image the median is the mean
    assert all(float(row[4].split()[0]) > 0 for row in rows)
