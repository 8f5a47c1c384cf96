"""Full float32 is set, not assumed, in the way that torch has, and what was set before comes back."""

import subprocess
import sys

import pytest
import torch

from metalab.algorithms.components.heads import SGD, fit_head
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, algorithm_traits
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.precision import computing, tf32
from metalab.training import train
from tests.engines.test_parity import ALGORITHMS, SMALL, episodes, net_of, recipes

CPU = torch.device("cpu")
COARSE = ("boil", "fomaml", "imaml", "kfo", "maml", "mamlpp", "metacurvature", "metasgd", "reptile")
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_bfloat16_keeps_the_meta_gradients_direction_where_it_is_not_refused(algo, small):
    """By a CPU's autocast: those that are refused were at cosines of 0.48 to 0.92, the others at 0.98 and above."""
    try:
        found = recipes(small, algo, 28)
    except UserError as error:
        pytest.skip(f"{algo} does not take these tiny tasks: {error}")
    for r in found:
        net, batch = net_of(r, SMALL["conv4"] | {"filters": 16}, 28).float(), episodes(r)
        batch = Episode(*(Batch(b.x.float(), b.y, b.unlabelled.float()) for b in batch))
        gradients = []
        for half in (False, True):
            net.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                Learn2Learn().grad(r.objective(), net, batch, torch.tensor(0.5))
            given = [p.grad.flatten() for n, p in net.named_parameters() if p.grad is not None and ".0.bias" not in n]
            gradients.append(torch.cat(given))
        cosine = torch.cosine_similarity(*gradients, dim=0).item()
        most = (
            0.98 if algo == "proto_maml" else 0.95
        )  # the former is refused as MAML is: its first-order variant is finer
        assert cosine < most if algorithm_traits(r.train_algorithm).adapts_body else cosine > 0.97, cosine


@pytest.mark.parametrize("algo", COARSE)
def test_bfloat16_is_refused_where_inner_steps_go_through_the_body(algo, small, tmp_path, monkeypatch):
    monkeypatch.setattr("metalab.training.setup.own_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("metalab.training.setup.on_device", lambda split, _: split)
    with pytest.raises(UserError, match=rf"^engine\.precision=bf16: algo={algo} takes inner steps through the body"):
        train.run(small(f"algo={algo}", "engine.precision=bf16"), tmp_path)


def test_what_is_made_of_features_has_float32_whatever_the_body_computes_in(small):
    (r, *_) = recipes(small, "protonet", 16)
    net = net_of(r, SMALL["conv4"], 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        features = net("features", torch.rand(6, 1, 16, 16)).flatten(1)
        assert features.dtype == torch.float32
        start = {"weight": features.new_zeros(2, features.shape[1]), "bias": features.new_zeros(2)}

        def logits(head, f):
            return f @ head["weight"].T + head["bias"]

        head = fit_head(logits, start, features.detach(), torch.arange(6) % 2, 1, 6, SGD(1e-6, 0.0, 0.0, 0.0))
        again = fit_head(logits, head, features.detach(), torch.arange(6) % 2, 1, 6, SGD(1e-6, 0.0, 0.0, 0.0))
    exact = {n: w.double() for n, w in start.items()}
    exact = fit_head(logits, exact, features.detach().double(), torch.arange(6) % 2, 2, 6, SGD(1e-6, 0.0, 0.0, 0.0))
    assert again["weight"].dtype == again["bias"].dtype == torch.float32
    assert (again["weight"] - exact["weight"]).norm() < 1e-5 * exact["weight"].norm()  # in bfloat16 3e-3
