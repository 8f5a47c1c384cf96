"""iMAML, BOIL and MAML++: values against oracles, and the same gradients on both engines, in float64."""

import copy

import pytest
import torch
from torch import nn

from metalab.algorithms.components.heads import HeadInit
from metalab.algorithms.components.inner_loop import weights
from metalab.algorithms.gradient_based.anil import ANIL
from metalab.algorithms.gradient_based.boil import BOIL
from metalab.algorithms.gradient_based.imaml import IMAML
from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.gradient_based.mamlpp import MAMLPP
from metalab.algorithms.gradient_based.metacurvature import MetaCurvature
from metalab.algorithms.gradient_based.metasgd import MetaSGD
from metalab.algorithms.gradient_based.mtl import MTL
from metalab.algorithms.gradient_based.reptile import Reptile
from metalab.algorithms.objectives.implicit_gradient import ImplicitGradient
from metalab.algorithms.objectives.multi_step import MultiStep
from metalab.algorithms.objectives.parameter_distance import ParameterDistance
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import FC, Conv4
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.models.pretrained.lora import LoRA, add_lora
from tests.algorithms.made import TASKS, WAY, episodes, far, net_of, objective, outer

HEAD = ("head.weight", "head.bias")
CASES = {
    "imaml": (IMAML(WAY, 0.1, 2.0, 5, 0.0), ImplicitGradient, 3, 0.0),
    "imaml damped": (IMAML(WAY, 0.1, 2.0, 5, 1.0), ImplicitGradient, 3, 0.0),
    "boil": (BOIL(WAY, 0.5, False, "learned"), QueryLoss, 2, 0.0),
    "maml without norms": (MAML(WAY, 0.5, False, "learned", adapt_norm=False, head_std=1.0), QueryLoss, 2, 0.0),
    "boil without norms": (BOIL(WAY, 0.5, False, "learned", adapt_norm=False), QueryLoss, 2, 0.0),
    "metacurvature without norms": (MetaCurvature(WAY, 0.1, False, adapt_norm=False), QueryLoss, 2, 0.0),
    "mamlpp without norms": (MAMLPP(WAY, 0.125, 2, 0.5, 0.3, adapt_norm=False), MultiStep, 3, 0.9),
    "boil prototype": (BOIL(WAY, 0.01, False, "prototype"), QueryLoss, 2, 0.0),
    "metacurvature": (MetaCurvature(WAY, 0.1, False), QueryLoss, 2, 0.0),
    "kfo": (MetaCurvature(WAY, 0.1, False, transform="kronecker"), QueryLoss, 2, 0.0),
    "kfo of the head": (MetaCurvature(WAY, 0.1, False, transform="kronecker", body=False), QueryLoss, 2, 0.0),
    "mtl": (MTL(WAY, 0.1, False, "learned"), QueryLoss, 2, 0.0),
    "metacurvature knn": (MetaCurvature(WAY, 0.01, False, "knn"), QueryLoss, 2, 0.0),
    "metasgd prototype": (MetaSGD(WAY, 0.01, 0.1, False, "prototype"), QueryLoss, 2, 0.0),
    "imaml prototype": (IMAML(WAY, 0.1, 2.0, 5, 0.0, "prototype"), ImplicitGradient, 3, 0.0),
    "reptile knn": (Reptile(WAY, 1e-2, 0.9, 4, "knn"), ParameterDistance, 3, 0.0),
    "mamlpp zero": (MAMLPP(WAY, 0.125, 2, 0.5, 0.3, "zero"), MultiStep, 3, 0.9),
    "mamlpp at first": (MAMLPP(WAY, 0.125, 2, 0.5, 0.3), MultiStep, 3, 0.1),
    "mamlpp at last": (MAMLPP(WAY, 0.125, 2, 0.5, 0.3), MultiStep, 3, 0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_both_engines_have_the_same_losses_and_meta_gradients(case):
    algorithm, kind, steps, progress = CASES[case]
    aim = objective(kind, algorithm, steps)
    loop, slow = outer(Learn2Learn(), aim, net_of(algorithm), episodes(), progress)
    fast, quick = outer(Vectorized(None), aim, net_of(algorithm), episodes(), progress)
    assert max(g.abs().max() for g in slow.values()) > 1e-3
    assert (loop.loss - fast.loss).abs().max() < 1e-10
    assert torch.equal(loop.correct, fast.correct)
    rounding = ".0.bias" if kind is ParameterDistance else "none"  # batch norm takes it out, Adam scales it up
    assert far(*({n: g for n, g in both.items() if not n.endswith(rounding)} for both in (slow, quick))) < 1e-10


@pytest.mark.parametrize("head", ["zero", "prototype", "knn"])
def test_with_a_head_made_for_each_task_learned_steps_start_as_mamls(head: HeadInit):
    """Meta-SGD with equal rates, MAML++ and meta-curvature as they start are MAML, whatever the task's head is."""
    sgd, plus = MetaSGD(WAY, 0.125, 0.125, False, head), MAMLPP(WAY, 0.125, 2, 0.0, 0.0, head)
    own, maml = (sgd, plus, MetaCurvature(WAY, 0.125, False, head)), MAML(WAY, 0.125, False, head)
    net = net_of(maml)
    theirs, want = outer(Learn2Learn(), objective(QueryLoss, maml, 2), net, episodes())
    assert max(g.abs().max() for n, g in want.items() if n.startswith("body.")) > 1e-6
    for algorithm in own:
        same = net_of(algorithm)
        same.load_state_dict(net.state_dict(), strict=False)
        mine, got = outer(Learn2Learn(), objective(QueryLoss, algorithm, 2), same, episodes())
        assert (mine.loss - theirs.loss).abs().max() < 1e-12
        assert far({n: got[n] for n in want}, want) < 1e-12
        assert any(g.abs().max() > 1e-6 for n, g in got.items() if n.startswith(("rates.head", "curvature.head")))


@pytest.mark.parametrize("head", ["learned", "zero", "prototype", "knn"])
@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None)], ids=["learn2learn", "vectorized"])
def test_reptiles_gradient_of_the_body_is_theta_minus_phi_whatever_the_head(engine, head: HeadInit):
    algorithm, batch = Reptile(WAY, 1e-2, 0.9, 4, head), episodes()
    net = net_of(algorithm)
    body = {n: p for n, p in net.named_parameters() if n.startswith("body.") and not n.endswith(".0.bias")}
    want = {n: torch.zeros_like(p) for n, p in body.items()}
    for t in range(TASKS):
        *_, model = algorithm.adapt(TaskLearner(net, False), task(batch, t).support, cross_entropy, 3)
        phi = model.parameters()  # type: ignore[attr-defined]
        want = {n: w + (body[n] - phi[n]).detach() / TASKS for n, w in want.items()}
    _, got = outer(engine, objective(ParameterDistance, algorithm, 3), net, batch)
    assert max(w.abs().max() for w in want.values()) > 1e-3
    assert far({n: got[n] for n in body}, want) < 1e-12


@pytest.mark.parametrize("head", ["zero", "prototype", "knn"])
def test_reptile_moves_the_body_and_no_head_that_is_made_for_each_task(head: HeadInit):
    algorithm = Reptile(WAY, 1e-2, 0.9, 4, head)
    net, batch = net_of(algorithm), episodes()
    result, got = outer(Learn2Learn(), objective(ParameterDistance, algorithm, 3), net, batch)
    assert not any(g.any() for n, g in got.items() if n.startswith("head."))
    assert any(g.any() for n, g in got.items() if n.startswith("body."))
    shared = {n: b for n, b in result.state.items() if n.startswith("moments.head/")}
    assert shared
    assert all(b.shape[:2] == (len(batch.query.y), 1) for b in shared.values())  # one class's for all, of each task


def test_boil_changes_the_body_and_never_the_head_within_a_task():
    algorithm = BOIL(WAY, 0.5, False, "learned")
    start = TaskLearner(net_of(algorithm), False)
    before = start.parameters()
    *_, model = algorithm.adapt(start, task(episodes(), 0).support, cross_entropy, 2)
    after = model.parameters()  # type: ignore[attr-defined]
    same = {n for n in before if torch.equal(before[n], after[n])}
    assert same == {"head.weight", "head.bias"}


def test_boil_is_maml_whose_head_has_a_rate_of_0():
    algorithm, net = MAMLPP(WAY, 0.5, 1, 0.0, 0.0), net_of(MAMLPP(WAY, 0.5, 1, 0.0, 0.0))
    with torch.no_grad():
        for name, rate in net.get_submodule("rates").named_parameters():
            rate.fill_(0.0 if name.startswith("head/") else 0.5)
    boil = BOIL(WAY, 0.5, False, "learned")
    result, g = outer(Learn2Learn(), objective(QueryLoss, boil, 2), net, episodes())
    expected, e = outer(Learn2Learn(), objective(QueryLoss, algorithm, 2), net, episodes())
    assert (result.loss - expected.loss).abs().max() < 1e-12
    assert far(g, {n: t for n, t in e.items() if not n.startswith("rates.")}) < 1e-12


def test_meta_curvature_starts_as_maml_and_its_matrices_multiply_each_side_of_a_gradient():
    algorithm, batch = MetaCurvature(WAY, 0.1, False), task(episodes(), 0).support
    net = net_of(algorithm)
    start = TaskLearner(net, False)
    *_, ours = algorithm.adapt(start, batch, cross_entropy, 2)
    *_, plain = MAML(WAY, 0.1, False, "learned").adapt(start, batch, cross_entropy, 2)
    assert far(ours.parameters(), plain.parameters()) < 1e-12  # type: ignore[attr-defined]
    conv = net.get_submodule("curvature.body/1/0/weight")
    with torch.no_grad():
        for p in conv.parameters():
            p.add_(torch.randn_like(p))
    out, into, place = (dict(conv.named_parameters())[n] for n in ("mc_in", "mc_out", "mc_f"))
    g = torch.randn(4, 4, 3, 3, dtype=torch.float64)
    expected = torch.einsum("oa,abf,bi,fg->oig", out, g.flatten(2), into, place.T).view_as(g)
    assert (conv(g) - expected).abs().max() < 1e-12


def test_kronecker_factors_start_as_maml_or_anil_and_multiply_a_gradient_from_both_sides():
    batch = task(episodes(), 0).support
    for body, plain in ((True, MAML(WAY, 0.1, False, "learned")), (False, ANIL(WAY, 0.1, False, "learned"))):
        algorithm = MetaCurvature(WAY, 0.1, False, transform="kronecker", body=body)
        start = TaskLearner(net := net_of(algorithm), False)
        *_, ours = algorithm.adapt(start, batch, cross_entropy, 2)
        *_, theirs = plain.adapt(start, batch, cross_entropy, 2)
        assert far(ours.parameters(), theirs.parameters()) < 1e-12  # type: ignore[attr-defined]
        names = [name for name, _ in net.get_submodule("curvature").named_children()]
        assert any(name.startswith("body/") for name in names) == body
    for name, shape in (("head/weight", (WAY, 4)), ("head/bias", (WAY, 1))):
        factor = net.get_submodule(f"curvature.{name}")
        left, right = (torch.randn(n, n, dtype=torch.float64) for n in shape)
        factor.load_state_dict({"transform.left": left, "transform.right": right})
        g = torch.randn(shape, dtype=torch.float64)
        found = factor(g if name.endswith("weight") else g[:, 0]).view(shape)
        assert (found - left.T @ left @ g @ right.T @ right).abs().max() < 1e-12


def test_mtl_scales_and_shifts_kernels_that_stay_as_they_are():
    algorithm, anil, (support, query) = (
        MTL(WAY, 0.1, False, "learned"),
        ANIL(WAY, 0.1, False, "learned"),
        task(episodes(), 0),
    )
    torch.manual_seed(0)
    body = Conv4(4, 4, False, False).build(1, 16)
    plain = Net(Normalize([0.5], [0.3]), copy.deepcopy(body), nn.Sequential(), anil.parts(body, 4)).double()
    net = Net(Normalize([0.5], [0.3]), body, nn.Sequential(), algorithm.parts(body, 4)).double()
    net.get_submodule("head").load_state_dict(plain.get_submodule("head").state_dict())

    def logits(algorithm, net):
        *_, model = algorithm.adapt(TaskLearner(net, False), support, cross_entropy, 2)
        return model(query.x)

    assert torch.equal(logits(algorithm, net), logits(anil, plain))  # factors of 1 and shifts of 0
    added = {n: p for n, p in net.named_parameters() if n.endswith((".factor", ".shift"))}
    assert len(added) == 8
    assert added["body.1.0.parametrizations.weight.0.factor"].shape == (4, 4, 1, 1)
    kernels = dict(plain.named_parameters())
    with torch.no_grad():
        for name, p in added.items():
            p.add_(torch.randn_like(p))
            kernel = kernels[name.replace("parametrizations.", "").rpartition(".0.")[0]]
            kernel.copy_(kernel * p if kernel.dim() == 4 else kernel + p)  # the same net, changed for good
    assert (logits(algorithm, net) - logits(anil, plain)).abs().max() < 1e-12
    _, gradient = outer(Learn2Learn(), objective(QueryLoss, algorithm, 2), net, episodes())
    assert set(gradient) == {*added, *(f"body.{i}.1.{leaf}" for i in range(4) for leaf in ("weight", "bias")), *HEAD}
    assert gradient["body.1.0.parametrizations.weight.0.factor"].abs().max() > 1e-6
    assert all(name.endswith((".factor", ".shift")) for name in set(gradient) - set(weights(gradient)))


def test_mtl_wants_convolutions():
    with pytest.raises(UserError, match="scales convolutions, and this backbone has none that learns"):
        MTL(WAY, 0.1, False, "learned").parts(FC((8,)).build(1, 16), 8)
    body = Conv4(4, 4, False, False).build(1, 16)
    add_lora(body, LoRA(2, "all", None), True, "conv4")
    with pytest.raises(UserError, match=r"and so does backbone\.lora: leave one out"):
        MTL(WAY, 0.1, False, "learned").parts(body, 4)
