"""Every option of reg= with every algorithm: it changes what is learned and stays finite, or is refused by name."""

import pytest
import torch
from torch import nn

from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.build import build_net
from metalab.training.compatibility import check_drops
from metalab.training.train import normalization
from tests.configs import training_setup

NAMES = {group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in ("algo", "reg")}

TINY = ("task.train_way=3", "task.shot=2", "task.train_shot=2", "task.train_query=3", "train.meta_batch=2")

VARIABLE = ("task=variable", "task.way=5", "task.shot=4", "task.query=2", "task.support=15", "train.meta_batch=1")

BASES = {"class_balanced": VARIABLE}  # what the comparison is made on, where it is not TINY

ALSO = {
    "pseudo_labels": ("reg.pseudo_labels.threshold=0",),  # a net that knows nothing is sure of nothing
    "mixstyle": ("reg.mixstyle.p=1",),  # else a pass may be left as it is
}


ENGINES = {"learn2learn": Learn2Learn(), "vectorized": Vectorized(None)}


def gradient(small, algo: str, engine: str, words: tuple[str, ...] = (), reg: str = "none") -> dict[str, torch.Tensor]:
    """Return the meta-gradient of the first meta-step."""
    batches = small(f"algo={algo}").algo.get("mini_batch") is not None  # it trains on these, not on episodes
    cfg = small(f"algo={algo}", *(("task.train_way=null",) if batches else TINY), *words)
    cfg.reg = small(f"reg={reg}", *ALSO.get(reg, ())).reg  # as composed together, and once for all algorithms
    r = training_setup(cfg)
    torch.manual_seed(0)
    data = r.data["train"].images
    net = build_net(
        r.backbone,
        r.train_algorithm,
        r.terms.drop or nn.Sequential(),
        normalization(data),
        data.shape[-1],
        r.terms.parts,
    )
    check_drops(net, r.algo)
    r.terms.attach(net)
    source = r.training("train", r.meta_batch)
    result = ENGINES[engine].grad(r.objective(), net, source(0), torch.full((), 0.5))  # what ramps up is there
    assert result.loss.isfinite().all()
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("algo", NAMES["algo"])
def test_it_changes_the_gradient_or_is_refused(algo, small):
    for engine in ENGINES:  # in one test: a configuration is composed once for both
        start, refusals = gradient(small, algo, engine), []
        for option in set(NAMES["reg"]) - {"none", "replay"}:  # which draws other images where there is a memory
            base = BASES.get(option, ())
            plain = gradient(small, algo, engine, base) if base else start
            try:
                changed = gradient(small, algo, engine, base, option)
            except UserError as error:
                refusals.append(str(error))
                continue
            unread = {"head.weight", "head.bias"} - plain.keys() if option == "l2" else set()  # it decays those, too
            _check(plain, {n: g for n, g in changed.items() if n not in unread}, f"{engine}: {option}")
        assert all("reg" in said for said in refusals), (engine, refusals)


def _check(plain: dict[str, torch.Tensor], changed: dict[str, torch.Tensor], said: str) -> None:
    """Check that an option's gradients are finite, of the same parameters and its own, and others than without it."""
    assert all(g.isfinite().all() for g in changed.values()), said
    own = {n for n in changed if n.startswith("reg_")}
    assert set(changed) - own == set(plain), said
    moved = any(changed[n].abs().max() > 0 for n in own)  # a learned loss starts as the plain one
    assert moved or any(not torch.equal(changed[n], plain[n]) for n in plain), said
