"""A meta-step stays on the device: it reads nothing back and makes nothing on the host, so a GPU never waits for it.

Where there is no GPU, torch's device "meta" is one: it has shapes and no numbers, and whatever would read them raises.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Engine, Episode
from metalab.engines.vectorized import Vectorized
from tests.engines.test_parity import ALGORITHMS, SMALL, episodes, net_of, recipes

ATEN = torch.ops.aten


class OffDevice(TorchDispatchMode):
    """Collect the operations that make tensors on the host, copy them to the device, or wait for one of its numbers.

    A number of the host's (no dimensions) is an argument of the kernel that is launched with it, and costs nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = ([t.device.type == "cpu" for t in tensors(tree)] for tree in ((args, kwargs), out))
        sent = func in (ATEN._to_copy.default, ATEN.copy_.default) and any(given) and not all(made)
        if (
            sent
            or any(t.device.type == "cpu" and t.dim() for t in tensors(out))
            or func is ATEN._linalg_check_errors.default
        ):
            self.found.add(str(func))
        return out


def tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # "meta" has none


def off_device(engine: Engine, small: Callable[..., DictConfig], algo: str, *words: str) -> set[str]:
    seen = OffDevice()
    for r in recipes(lambda *more: small(*more, *words), algo, 16):
        net = net_of(r, SMALL["conv4"], 16).to("meta")
        batch = Episode(*(Batch(*(t.to("meta") for t in b)) for b in episodes(r)))
        progress = torch.zeros((), device="meta")
        what = r.objective()
        engine.grad(what, net, batch, progress)  # what is made once, is made here
        with seen:
            engine.grad(what, net, batch, progress)
    return seen.found


ON_THE_DEVICE = [a for a in ALGORITHMS if a != "metaoptnet"]  # it solves on the CPU


@pytest.mark.slow
@pytest.mark.parametrize("algo", ON_THE_DEVICE)
def test_a_meta_step_stays_on_the_device(algo, small):
    try:
        words = ["algo.draws=anew"] if algo == "versa" else []  # as in training, not as in the recipes
        assert off_device(Vectorized(None), small, algo, *words) == set()
    except UserError as error:
        pytest.skip(f"engine=vectorized refuses {algo}: {error}")


def test_what_solves_on_the_host_is_noticed(small):
    pytest.importorskip("proxsuite")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        off_device(Vectorized(None), small, "metaoptnet")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["query", "support", "both"])
@pytest.mark.parametrize("reg", ["adv_fgsm", "adv_pgd"])
def test_an_attacked_meta_step_stays_there(reg, where, small):
    assert off_device(Vectorized(None), small, "maml", f"reg={reg}", f"reg.{reg}.on={where}") == set()


# distill needs a teacher's run, learned_loss an algorithm that recipes does not make first-order as well
OPTIONS = sorted({p.stem for p in (Path(conf_dir()) / "reg").glob("*.yaml")} - {"none", "distill", "learned_loss"})


@pytest.mark.slow
@pytest.mark.parametrize("reg", OPTIONS)
def test_a_regularized_meta_step_stays_there(reg, small):
    algo = "baseline" if reg in ("entropy_target", "pseudo_labels") else "protonet"  # which takes no classifier's
    algo = "maml" if reg == "class_balanced" else algo  # which is of inner steps
    assert off_device(Vectorized(None), small, algo, f"reg={reg}") == set()
