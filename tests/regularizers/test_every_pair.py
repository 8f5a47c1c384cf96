"""Every option of reg= with every algorithm: it changes what is learned and stays finite, or is refused by name."""

import pytest
import torch
from torch import nn

from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.data.sampling.build import Source
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.build import build_net
from metalab.training.compatibility import check_drops
from metalab.training.train import normalization
from tests.configs import training_setup

NAMES = {group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in ("algo", "reg")}

TINY = ("task.train_way=3", "task.shot=2", "task.train_shot=2", "task.train_query=3", "train.meta_batch=2")

BATCHES = ("autoencoder", "baseline", "baselinepp", "feature_extraction", "finetune", "simpleshot")


ENGINES = {"learn2learn": Learn2Learn(), "vectorized": Vectorized(None)}


def gradient(small, algo: str, engine: str, *words: str) -> dict[str, torch.Tensor]:
    """Return the meta-gradient of the first meta-step."""
    r = training_setup(small(f"algo={algo}", *(("task.train_way=null",) if algo in BATCHES else TINY), *words))
    torch.manual_seed(0)
    data = r.data["train"].images
    net = build_net(
        r.backbone,
        r.train_algorithm,
        r.terms.drop or nn.Sequential(),
        normalization(data),
        data.shape[-1],
    )
    check_drops(net, r.algo)
    source: Source = r.training("train", r.meta_batch)
    result = ENGINES[engine].grad(r.objective(), net, source(0), torch.zeros(()))
    assert result.loss.isfinite().all()
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algo", NAMES["algo"])
def test_it_changes_the_gradient_or_is_refused(algo, engine, small):
    plain, refusals = gradient(small, algo, engine), []
    for option in set(NAMES["reg"]) - {"none"}:
        try:
            changed = gradient(small, algo, engine, f"reg={option}")
        except UserError as error:
            refusals.append(str(error))
            continue
        assert all(g.isfinite().all() for g in changed.values()), option
        assert set(changed) == set(plain)
        assert any(not torch.equal(changed[n], plain[n]) for n in plain), option
    assert all("reg" in said for said in refusals), refusals
