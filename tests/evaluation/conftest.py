"""What several tests of evaluations share."""

from pathlib import Path

import pytest
import torch
from torchvision import models


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A file of weights that nobody trained: what is tested is what is made of them."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v3_small.pth"
    torch.save(models.mobilenet_v3_small(weights=None).state_dict(), path)
    return path
