"""metalab predict and export take several runs as one model: the mean of their probabilities."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serving.pictures import write_patterns


def shares(folder: Path) -> np.ndarray:
    """Return the probabilities of predictions.csv, [N,K]."""
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return np.array([[float(value) for value in row[3:]] for row in rows[1:]])


@pytest.fixture
def typed(command_line, tiny_dir, tmp_path, monkeypatch):
    """Run a command in tmp_path, on pictures in support/ and images/: typed(*words) -> exit code, what was printed."""
    monkeypatch.chdir(tmp_path)
    write_patterns(tmp_path / "images", [0, 1, 4], range(5, 9))
    write_patterns(tmp_path / "support", [0, 1, 4], range(2))
    return lambda command, *words: command_line(command, "--config-dir", str(tiny_dir), *words, "device=cpu")


@pytest.mark.slow
def test_predict_averages_the_members_probabilities(typed, run_of, tmp_path):
    runs = [run_of("algo=protonet"), run_of("algo=protonet", "seed=1")]
    words = ("support=support", "images=images", "predict.calibrate=false")
    for i, run in enumerate(runs):
        assert typed("predict", f"run={run}", f"hydra.run.dir=out{i}", *words)[0] == 0
    code, said = typed("predict", f"run=[{runs[0]},{runs[1]}]", "ensemble=mean", "hydra.run.dir=out", *words)
    assert code == 0, said
    alone = [shares(tmp_path / f"out{i}") for i in (0, 1)]
    assert shares(tmp_path / "out") == pytest.approx(np.mean(alone, 0), abs=2e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    held = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert held["run"] == f"the mean of 2 nets: {runs[0]}, {runs[1]}"
    assert held["expected"]["images"] == 6  # left out, by both nets together


@pytest.mark.slow
def test_export_writes_one_graph_that_predict_takes(typed, run_of, tmp_path):
    pytest.importorskip("onnxruntime")
    runs = [run_of("algo=protonet"), run_of("algo=protonet", "seed=1")]
    both = (f"run=[{runs[0]},{runs[1]}]", "ensemble=mean", "support=support")
    code, said = typed("export", *both, "hydra.run.dir=file")
    assert code == 0, said
    held = json.loads((tmp_path / "file" / "model.json").read_text())
    assert held["check"]["largest_difference"] < 1e-4
    assert held["run"] == f"the mean of 2 nets: {runs[0].name}, {runs[1].name}"  # the file goes to other machines
    assert typed("predict", *both, "images=images", "hydra.run.dir=nets")[0] == 0
    assert typed("predict", "run=file/model.onnx", "images=images", "hydra.run.dir=onnx")[0] == 0
    assert shares(tmp_path / "onnx") == pytest.approx(shares(tmp_path / "nets"), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("predict", ("images=images", "support=support", "ensemble=vote"), "ensemble=vote: one model of several nets"),
        (
            "predict",
            ("images=images", "support=support"),
            "predict takes one run, and run names 2; one job for each is",
        ),
        ("export", ("support=support", "ensemble=mean", "what=features"), "what=features with ensemble=mean"),
        ("export", ("support=support", "ensemble=mean", "format=safetensors"), "it holds one net's weights"),
    ],
)
def test_what_is_no_model_is_refused(typed, run_of, tmp_path, command, words, said):
    runs = [run_of("algo=protonet"), tmp_path / "twin"]
    shutil.copytree(runs[0], runs[1])
    code, told = typed(command, f"run=[{runs[0]},{runs[1]}]", "hydra.run.dir=out", *words)
    assert (code, said in told) == (1, True), told


def test_nets_of_other_image_sizes_are_refused(typed, run_of):
    runs = [run_of("algo=protonet"), run_of("algo=protonet", "data.size=20")]
    words = ("support=support", "images=images", "ensemble=mean", "hydra.run.dir=out")
    code, told = typed("predict", f"run=[{runs[0]},{runs[1]}]", *words)
    assert code == 1
    assert f"{runs[1]} takes images as {{size:20,channels:1}}" in told


def test_the_exported_mean_is_finite_where_a_probability_vanishes():
    from metalab.serving.classifier import Classifier
    from metalab.serving.ensemble import mean_classifier

    def certain(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 300.0]]).expand(len(x), -1)

    made = mean_classifier([Classifier(["a", "b"], certain, lambda x: x, traceable=certain)] * 2, ["a", "b"])
    assert made.traceable is not None
    assert made.traceable(torch.zeros(1, 1)).tolist() == [[-300.0, 0.0]]
