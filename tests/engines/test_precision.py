"""Full float32 is set, not assumed, in the way that torch has, and what was set before comes back."""

import subprocess
import sys

import pytest
import torch

from metalab.engines.precision import computing, tf32

CPU = torch.device("cpu")
LATER = torch.__version__ >= "2.9"  # has the newer way


def flags() -> list[object]:
    if not LATER:
        return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn  # type: ignore[attr-defined]
    return [b.fp32_precision for b in backends]


@pytest.mark.parametrize("allowed", [True, False])
def test_all_of_it_is_set_and_comes_back(allowed):
    before = flags()
    with tf32(allowed):
        expected = ("tf32" if allowed else "ieee") if LATER else allowed
        assert set(flags()) == {expected}
        with computing("float32", CPU):
            assert set(flags()) == {"ieee" if LATER else False}
        assert set(flags()) == {expected}
    assert flags() == before


@pytest.mark.parametrize(
    "first", ["pass", "torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True"]
)
def test_torchs_two_ways_are_not_mixed(first):
    """torch raises where it reads what was set in the other way; in a process of its own, as it is the process's."""
    code = f"""
import torch
from metalab.engines.precision import computing
{first}
with computing("float32", torch.device("cpu")):
    pass
torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32  # a user's own program, afterwards
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
