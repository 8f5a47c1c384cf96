"""The scripts for a machine with a GPU run without one, as --smoke."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).parents[2] / "scripts" / "gpu"
pytestmark = pytest.mark.slow


def typed(out: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": own, "OUT": str(out), "MINUTES": "3", "JOBS": "1"}
    return subprocess.run([GPU / name, *words], env=env, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_tests_are_skipped_or_it_is_said(tmp_path):
    done = typed(tmp_path, "right.sh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "torch sees no GPU here" in done.stderr
    done = typed(tmp_path, "right.sh", "--smoke")
    assert done.returncode == 0, done.stdout
    assert "no CUDA device" in (tmp_path / "right.txt").read_text()
    assert " failed" not in done.stdout


def test_every_benchmark_runs(tmp_path):
    done = typed(tmp_path, "fast.sh", "--smoke")
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"measured.csv", "attack.txt", "sampler.json", "large/bench.md", "evaluate/bench.csv"} <= made
    assert "\ncpu,maml,16," in (tmp_path / "measured.csv").read_text()  # the tiny case stands in the copy


def test_a_row_of_the_papers_runs(tmp_path):
    words = ("--smoke", "--only", "glyphs/protonet", "--device", "cpu", "--out", str(tmp_path))
    done = typed(tmp_path, "papers.sh", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results" / "glyphs" / "protonet.seed0.json").is_file()
