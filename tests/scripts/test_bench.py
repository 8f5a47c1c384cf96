"""The benchmark runs, races equals, and writes what engine=auto reads; its speeds are no test's business."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metalab.engines.auto import Workload, table

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_cases  # pyright: ignore[reportMissingImports]

    return bench_cases


@pytest.mark.slow
def test_smoke_of_evaluation(tmp_path):
    words = ["--smoke", "--evaluate", "--device=cpu", "--threads=1", "--out", tmp_path]
    done = subprocess.run([sys.executable, SCRIPTS / "bench.py", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench.md").read_text().count("by hand") == 4


@pytest.mark.slow
def test_smoke_of_the_profile(tmp_path):
    words = ["--smoke", "--profile", "--algo=maml", "--device=cpu", "--threads=1", "--out", tmp_path]
    done = subprocess.run([sys.executable, SCRIPTS / "bench.py", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" maml ") == 3  # contestants
    assert "convolution" in done.stdout
    assert not (tmp_path / "bench.md").exists()


@pytest.mark.slow
def test_smoke(tmp_path):
    words = ["--smoke", "--device=cpu", "--threads=1", "--out", tmp_path, "--table", tmp_path / "measured.csv"]
    done = subprocess.run([sys.executable, SCRIPTS / "bench.py", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["algo"], row["engine"]) for row in rows}
    engines = ("learn2learn, by hand", "engine=learn2learn", "engine=vectorized")
    assert found == {(a, e) for a in ("maml", "fomaml", "anil", "protonet") for e in engines}
    assert all(
        float(row[key]) > 0 for row in rows for key in ("ms", "tasks_per_s", "peak_mb", "ceiling_share", "speed")
    )
    assert [row["auto"] for row in rows].count("auto") == 4
    assert "GFLOP/s" in (tmp_path / "bench.md").read_text()
    assert [row.work for row in table(tmp_path / "measured.csv")] == [
        Workload("cpu", a, 16, 3, 4, 0 if a == "protonet" else 2, 4) for a in ("maml", "fomaml", "anil", "protonet")
    ]


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("algo", ["maml", "fomaml"])
def test_all_contestants_compute_the_same(cases, algo, evaluating):
    """ANIL and ProtoNet differ by design: learn2learn's examples normalize support and query in one pass."""
    (case,) = cases.SMOKE.values()
    runs = cases.contestants(case, algo, torch.device("cpu"), [], evaluating, torch_convolutions=True)
    assert len(runs) == 5
    losses = [run().item() for run in runs.values()]
    assert losses[1:] == pytest.approx(losses[:1] * (len(losses) - 1), rel=1e-5)
