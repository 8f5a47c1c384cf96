"""Fine-tuning with unlabelled images: steps worked by hand, both engines, and what they are good for."""

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.transfer_learning.finetune import Finetune
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import Learn2Learn, TaskLearner
from metalab.engines.vectorized import Vectorized
from metalab.evaluation.measure import outcome
from tests.algorithms.made import WAY, episodes, objective
from tests.algorithms.test_transfer import net


def algorithm(pseudo: float, lr: float = 0.1) -> Finetune:
    return Finetune(WAY, lr, 0, "zero", pseudo=pseudo)


def with_unlabelled() -> Episode:
    support, query = episodes()
    return Episode(support._replace(unlabelled=query.x[:, :4].flip(1)), query)


def test_four_steps_are_those_worked_by_hand_the_last_two_with_pseudo_labels():
    made, episode = net(algorithm(0.3)), with_unlabelled()
    support = Batch(*(t[0] for t in episode.support))
    *_, model = algorithm(0.3).adapt(TaskLearner(made, False), support, cross_entropy, 4)
    with torch.no_grad():
        f = made("features", support.x).flatten(1)  # of two passes, as their batches are normalized apart
        u = made("features", support.unlabelled).flatten(1)
    weight, bias = torch.zeros(WAY, f.shape[1], dtype=f.dtype), torch.zeros(WAY, dtype=f.dtype)
    for step in range(4):
        weight, bias = weight.requires_grad_(), bias.requires_grad_()
        loss = F.cross_entropy(f @ weight.T + bias, support.y)
        if step >= 2:
            logits = u @ weight.T + bias
            loss = loss + 0.3 * F.cross_entropy(logits, logits.argmax(1))
        slopes = torch.autograd.grad(loss, (weight, bias))
        weight, bias = (w.detach() - 0.1 * g for w, g in zip((weight, bias), slopes, strict=True))
    got = model.parameters()  # type: ignore[attr-defined]
    assert (got["head.weight"] - weight).abs().max() < 1e-12
    assert (got["head.bias"] - bias).abs().max() < 1e-12


def test_both_engines_agree_and_the_unlabelled_images_change_the_result():
    made, episode = net(algorithm(1.0)), with_unlabelled()

    def loss(engine, pseudo: float) -> torch.Tensor:
        return outcome(engine, objective(QueryLoss, algorithm(pseudo), 4), made, episode, "running").loss

    assert (loss(Learn2Learn(), 1.0) - loss(Vectorized(None), 1.0)).abs().max() < 1e-10
    assert (loss(Learn2Learn(), 1.0) - loss(Learn2Learn(), 0.0)).abs().min() > 1e-6


def test_many_unlabelled_images_help_where_two_clouds_are_hardly_labelled():
    """Two long clouds of points, one labelled image each at an unlucky end: the rest of the clouds shows the border."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    points = torch.randn(200, 2, generator=generator) * torch.tensor([0.3, 1.0]) + (y[:, None] * 2 - 1) * torch.tensor(
        [1.5, 0]
    )
    labelled = torch.tensor([[-1.5, 1.6], [1.5, -1.6]])

    class Linear:
        def __init__(self, weights):
            self.weights = weights

        def __call__(self, x):
            return x @ self.weights["head.weight"].T + self.weights["head.bias"]

        def features(self, x):
            return x

        def parameters(self):
            return dict(self.weights)

        def replace(self, tensors):
            return Linear(self.weights | tensors)

        def grad(self, loss, names, first_order):
            at = {n: self.weights[n].detach().requires_grad_() for n in names}
            return dict(
                zip(names, torch.autograd.grad(loss(Linear(self.weights | at)), list(at.values())), strict=True)
            )

    def accuracy(pseudo: float) -> float:
        start = Linear({"head.weight": torch.zeros(2, 2), "head.bias": torch.zeros(2)})
        support = Batch(labelled, torch.tensor([0, 1]), points[:100])
        *_, model = Finetune(2, 0.5, 0, "zero", pseudo=pseudo).adapt(start, support, cross_entropy, 400)  # type: ignore[arg-type]
        return (model(points[100:]).argmax(1) == y[100:]).float().mean().item()

    assert accuracy(1.0) > accuracy(0.0) + 0.03


def test_a_negative_weight_is_refused():
    with pytest.raises(UserError, match=r"algo\.pseudo=-1: expected 0 or more"):
        algorithm(-1.0)
