import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "sweep_load.py"


@pytest.mark.slow
def test_jobs_that_are_killed_at_random_lose_nothing():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs metalab[sweep]")
    command = [sys.executable, str(SCRIPT), "--jobs", "4", "--killed", "0.25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    assert "jobs 4, killed 1, told as failed 1" in done.stdout
    assert "after resume=:  {'done': 4} exit code 0" in done.stdout
