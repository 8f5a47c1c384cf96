"""Regularizers on both engines."""

import pytest
import torch

from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.regularizers import Regularizer
from metalab.regularizers.input_noise import Noise
from metalab.regularizers.mixup import CutMix, Mixup
from metalab.regularizers.output_penalties import Confidence, Entropy, LabelSmoothing
from metalab.regularizers.weight_penalties import L2, GradientNorm
from tests.regularizers.made import fgsm, found, pgd

EXACT: dict[str, list[Regularizer]] = {  # what draws no random numbers
    "fgsm": [fgsm()],
    "pgd_add": [pgd(how="add")],
    "support": [fgsm("support")],
    "support_add": [fgsm("support", how="add")],
    "both": [pgd("both")],
    "both_add": [fgsm("both", how="add")],
    "crossed": [fgsm("crossed")],
    "inner": [fgsm("support", "inner")],
    "outputs": [LabelSmoothing(0.1, 0.2), Confidence(0.1), Entropy(0.1)],
    "gradient_norm": [GradientNorm(0.01)],
    "several": [L2(0.1, 0.2), LabelSmoothing(0.1, 0.1), fgsm("both")],
}


PAIRS = [(case, name) for case in ("maml", "anil", "protonet") for name in EXACT]
PAIRS.remove(("protonet", "inner"))  # a metric method has no inner steps


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_the_two_engines_agree(case, name):
    (a, slow), (b, fast) = (found(engine, case, EXACT[name]) for engine in (Learn2Learn(), Vectorized(None)))
    assert (a - b).abs().max() < 1e-9
    assert set(slow) == set(fast)
    assert max((slow[n] - fast[n]).abs().max() for n in slow) < 1e-8
    plain, _ = found(Vectorized(None), case, [])
    assert (plain - b).abs().max() > 1e-4  # and it does something


RANDOM: dict[str, Regularizer] = {
    "trades": fgsm(how="trades", random_start=True),
    "pgd": pgd(random_start=True),
    "noise": Noise(30.0, "sign", "both"),
    "mixup": Mixup(0.5),
    "cutmix": CutMix(1.0),
}


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None)], ids=["loop", "vmap"])
@pytest.mark.parametrize("name", RANDOM)
def test_what_draws_gives_a_finite_gradient_of_another_loss_on_both_engines(name, engine):
    for case in ("maml", "protonet"):
        torch.manual_seed(0)
        loss, gradient = found(engine, case, [RANDOM[name]])
        plain, clean = found(engine, case, [])
        assert (loss - plain).abs().min() > 1e-6
        assert all(g.isfinite().all() for g in gradient.values())
        assert any(not torch.allclose(gradient[n], clean[n]) for n in clean)
