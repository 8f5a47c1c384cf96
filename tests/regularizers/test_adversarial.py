"""Adversarial training by hand: what is attacked, by whom, and how many passes it takes."""

import pytest
import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import cross_entropy, evaluate_query
from metalab.attacks.fgsm import FGSM
from metalab.attacks.losses import divergence
from metalab.attacks.pgd import PGD
from metalab.core.interfaces import Batch
from metalab.regularizers.adversarial import attacked_loss
from tests.attacks.nets import PROGRESS
from tests.regularizers.made import fgsm, loss_of, objective


def test_adversarial_training_by_hand(one):
    """AQ attacks the queries of the adapted model; ADML crosses; both is another thing; weights are weights."""
    algorithm, steps, episode, learner = one
    support, query = episode
    attack = FGSM(20 / 255, "linf", None, False, "cross_entropy")
    first = next(iter(algorithm.adapt(learner, support, cross_entropy, steps)))
    bad_support = support._replace(x=attack(first, support.x, support.y))

    def bad_query(adapted_on: Batch) -> Batch:
        *_, model = algorithm.adapt(learner, adapted_on, cross_entropy, steps)
        return query._replace(x=attack(model, query.x, query.y))

    clean = loss_of(algorithm, steps, learner, support, query)
    queries = loss_of(algorithm, steps, learner, support, bad_query(support))
    supports = loss_of(algorithm, steps, learner, bad_support, query)
    both = loss_of(algorithm, steps, learner, bad_support, bad_query(bad_support))
    expected = {
        fgsm(): queries,
        fgsm(how="add", weight=0.2): clean + 0.2 * queries,
        fgsm("support"): supports,
        fgsm("both"): both,
        fgsm("both", how="add", weight=3.0): clean + 3 * both,
        fgsm("crossed"): (supports + queries) / 2,
    }
    for part, value in expected.items():
        got = objective("maml", [part])(learner, episode, PROGRESS)
        torch.testing.assert_close(got.loss, value, rtol=1e-9, atol=1e-10)
    crossed = objective("maml", [fgsm("crossed")])(learner, episode, PROGRESS)
    assert torch.equal(crossed.scalars["loss"], crossed.loss)  # what is shown is what is learned from
    values = [v.item() for v in expected.values()]
    assert len(set(values)) == len(values)
    assert queries > clean


def test_the_attack_sees_constants_and_the_loss_has_the_graph(one):
    """The gradient is that of the loss at the attacked images held fixed (Danskin)."""
    algorithm, steps, (support, query), learner = one
    attack = PGD(20 / 255, "linf", 3, None, False, 1, "cross_entropy")
    *_, model = algorithm.adapt(learner, support, cross_entropy, steps)
    x = attack(model, query.x, query.y)
    assert not x.requires_grad
    weights = [p for n, p in learner.parameters().items() if n.endswith("conv.weight") or n == "head.weight"]
    fixed = torch.autograd.grad(cross_entropy(model, query._replace(x=x)), weights, retain_graph=True)
    through = torch.autograd.grad(attacked_loss(cross_entropy, attack, "replace", 1.0)(model, query), weights)
    for a, b in zip(fixed, through, strict=True):
        torch.testing.assert_close(a, b)
        assert a.any()


def test_trades_by_hand():
    logits = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 0.5]])}
    kl = (logits["a"].softmax(1) * (logits["a"].log_softmax(1) - logits["b"].log_softmax(1))).sum()
    torch.testing.assert_close(divergence(logits["a"])(logits["b"])[0], kl)
    batch = Batch(torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), torch.zeros(0, 1, 1, 1))

    def model(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1)

    torch.manual_seed(0)
    attack = FGSM(0.1, "linf", 0.5, True, "cross_entropy")
    value = attacked_loss(cross_entropy, attack, "trades", 3.0)(model, batch)
    ends = [cross_entropy(model, batch) + 3 * divergence(model(batch.x))(model(batch.x + d)) for d in (0.1, -0.1)]
    assert min(abs(value - e).item() for e in ends) < 1e-6


def test_aq_takes_no_more_passes_than_it_needs(one):
    """PGD-7: 7 passes forward and back for the attack, 1 for the loss, 1 forward for what is shown."""
    _, _, (_, query), learner = one
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return learner(x)

    attacked_loss(cross_entropy, PGD(0.1, "linf", 7, None, True, 1, "cross_entropy"), "replace", 1.0)(model, query)
    assert len(calls) == 8


@pytest.mark.parametrize(("how", "passes"), [("replace", [False]), ("add", [True])])
def test_clean_queries_pass_once_and_keep_a_graph_where_the_loss_is_of_them(how, passes):
    linear, x = torch.nn.Linear(4, 3), torch.rand(5, 1, 2, 2)
    batch, seen = Batch(x, torch.tensor([0, 1, 2, 0, 1]), x[:0]), []

    def model(given):
        if given is x:
            seen.append(torch.is_grad_enabled())
        return linear(given.flatten(1))

    attack = PGD(0.1, "linf", 1, None, True, 1, "cross_entropy")
    result = evaluate_query(model, batch, attacked_loss(cross_entropy, attack, how, 1.0))
    assert seen == passes
    assert torch.equal(result.correct, linear(x.flatten(1)).argmax(1) == batch.y)
    assert result.loss.requires_grad
