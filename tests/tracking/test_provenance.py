"""What made a run."""

import json
import os
import platform
import subprocess
from pathlib import Path

import numpy
import pytest
import torch

import metalab
from metalab.core.errors import UserError
from metalab.tracking import provenance


def run_git(folder, *arguments):
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_describe(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/somebody/.venv/bin/metalab", "train", "algo=maml"])
    told = provenance.describe(112_064)
    assert told["command"] == "metalab train algo=maml"
    assert told["parameters"] == 112_064
    assert told["gpu"] is None
    assert told["threads"] == torch.get_num_threads()
    assert told["processor"].endswith(f", {os.cpu_count()} logical cores")
    assert not told["processor"].startswith(",")
    assert told["started"].endswith("+00:00")
    assert told["versions"]["torch"] == torch.__version__
    assert told["versions"]["numpy"] == numpy.__version__
    assert told["versions"]["learn2learn"] == "0.2.0"
    assert set(told["versions"]) >= {"metalab", "python", "torchvision", "hydra-core"}


def test_no_host_and_no_user(monkeypatch):
    home = "/home/jane.doe"
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("sys.argv", [f"{home}/bin/metalab", "train", f"data.root={home}/my images"])
    told = json.dumps(provenance.describe(1))
    assert "jane" not in told
    assert "metalab train 'data.root=~/my images'" in told
    assert len(platform.node()) < 4 or platform.node() not in told


def test_a_home_at_the_root_is_left_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert provenance.command(["metalab", "data.root=/a/b"]) == "metalab data.root=/a/b"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_the_gpu_is_named():
    assert provenance.describe(1, torch.device("cuda"))["gpu"] == torch.cuda.get_device_name()


def test_git_commit_and_changes(tmp_path):
    assert provenance.git(tmp_path) is None
    run_git(tmp_path, "init", "-q")
    assert provenance.git(tmp_path) is None  # no commit yet
    (tmp_path / "a.py").write_text("1\n")
    run_git(tmp_path, "add", "a.py")
    run_git(tmp_path, "commit", "-qm", "one")
    clean = provenance.git(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "b.py").write_text("2\n")
    assert provenance.git(tmp_path) == {"commit": clean["commit"], "dirty": True}
    installed = tmp_path / "site-packages"
    installed.mkdir()
    assert provenance.git(installed) is None  # somebody else's repository around an installed wheel


def test_without_git_installed(tmp_path, monkeypatch):
    run_git(tmp_path, "init", "-q")
    monkeypatch.setenv("PATH", "")
    assert provenance.git(tmp_path) is None


def test_write_adds_and_keeps(tmp_path):
    provenance.write(tmp_path, command="metalab train", parameters=3)
    provenance.write(tmp_path, resumes=[{"started": "a"}])
    provenance.write(tmp_path, resumes=[{"started": "b"}], seconds=1.5)
    whole = provenance.write(tmp_path, finished="c", seconds=2.5)
    assert json.loads((tmp_path / "run.json").read_text()) == whole
    assert whole == {
        "command": "metalab train",
        "parameters": 3,
        "resumes": [{"started": "a"}, {"started": "b"}],
        "seconds": 2.5,
        "finished": "c",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"a": 1,\n')
    with pytest.raises(UserError, match=r"run.json: expected JSON, found an error in line 2; mend or delete it"):
        provenance.write(tmp_path, b=2)


def test_this_checkout_is_described():
    root = Path(metalab.__file__).resolve().parents[1]
    assert (provenance.git(root) is not None) == (root / ".git").exists()
