"""What aligns a source with a target: MMD, CORAL and the reversed gradient against numpy, libraries and differences."""

import math

import numpy as np
import pytest
import torch
from skada.deep.losses import deepcoral_loss
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, TaskResult
from metalab.regularizers.coral import CORAL, coral_loss
from metalab.regularizers.dann import (
    DANN,
    PART,
    domain_classifier,
    domain_loss,
    reversal_strength,
    reverse_gradient,
)
from metalab.regularizers.entropy_target import EntropyTarget
from metalab.regularizers.mmd import MMD, Estimator, squared_mmd
from metalab.regularizers.pseudo_labels import PseudoLabels, pseudo_label_loss, ramp
from metalab.regularizers.target_features import known_features

MULTIPLES = (0.5, 1.0, 3.0)


def gaussians(n: int = 40, m: int = 30, features: int = 3, shift: float = 2.0, scale: float = 3.0):
    draw = torch.Generator().manual_seed(0)
    source = torch.randn(n, features, generator=draw, dtype=torch.float64)
    return source, shift + scale * torch.randn(m, features, generator=draw, dtype=torch.float64)


def mean_square(z: np.ndarray) -> float:
    """Return the mean of |z_i - z_j|^2 over i != j, pair by pair."""
    return float(np.mean([((a - b) ** 2).sum() for i, a in enumerate(z) for j, b in enumerate(z) if i != j]))


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_mmd_is_the_sum_over_pairs_that_gretton_writes(estimator: Estimator):
    source, target = gaussians(7, 5)
    x, y = source.numpy(), target.numpy()
    scale = mean_square(np.concatenate([x, y]))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return sum(math.exp(-((a - b) ** 2).sum() / (m * scale)) for m in MULTIPLES)

    same = estimator == "biased"  # whether an image meets itself
    own = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if same or i != j]) for z in (x, y)]
    expected = own[0] + own[1] - 2 * np.mean([k(a, b) for a in x for b in y])
    assert squared_mmd(source, target, MULTIPLES, estimator).item() == pytest.approx(expected, abs=1e-12)


def test_mmd_is_what_scikit_learns_kernel_gives():
    from sklearn.metrics.pairwise import rbf_kernel

    source, target = gaussians()
    scale = mean_square(torch.cat([source, target]).numpy())
    xx, yy, xy = (
        sum(rbf_kernel(a, b, gamma=1 / (m * scale)) for m in MULTIPLES)
        for a, b in ((source, source), (target, target), (source, target))
    )
    expected = xx.mean() + yy.mean() - 2 * xy.mean()  # type: ignore[union-attr]
    assert squared_mmd(source, target, MULTIPLES, "biased").item() == pytest.approx(expected, abs=1e-12)


def test_the_unbiased_estimate_is_0_on_average_where_there_is_no_difference():
    torch.manual_seed(0)

    def estimates(estimator: Estimator) -> list[float]:
        pairs = [torch.randn(2, 8, 3, dtype=torch.float64) for _ in range(300)]
        return [squared_mmd(pair[0], pair[1], MULTIPLES, estimator).item() for pair in pairs]

    drawn, biased = estimates("unbiased"), estimates("biased")
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn)) < 3 * error
    assert min(drawn) < 0 < min(biased)
    assert np.mean(biased) > 20 * error


def test_features_that_are_all_the_same_have_no_distance_and_a_finite_gradient():
    same = torch.ones(4, 3, requires_grad=True)
    value = squared_mmd(same, same, MULTIPLES, "unbiased")
    assert value.item() == 0
    assert torch.autograd.grad(value, same)[0].isfinite().all()


def test_coral_is_numpys_covariances():
    source, target = gaussians()
    difference = np.cov(source.numpy(), rowvar=False) - np.cov(target.numpy(), rowvar=False)
    expected = np.linalg.norm(difference, "fro") ** 2 / (4 * 3**2)
    assert coral_loss(source, target).item() == pytest.approx(expected, rel=1e-12)


def test_coral_is_skadas():
    source, target = gaussians()
    torch.testing.assert_close(coral_loss(source, target), deepcoral_loss(source, target))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmd", "coral"])
def test_training_a_linear_map_of_the_target_closes_the_gap(name):
    """Gaussians of other means and deviations: MMD moves both, CORAL, which knows no means, the covariance alone."""
    source, target = gaussians(200, 200)
    linear = nn.Linear(3, 3).double()
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3))
        linear.bias.zero_()
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.05)
    for _ in range(300):
        mapped = linear(target)
        value = coral_loss(source, mapped) if name == "coral" else squared_mmd(source, mapped, MULTIPLES, "unbiased")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    mapped = linear(target).detach()
    before, after = ((torch.cov(source.T) - torch.cov(t.T)).norm() for t in (target, mapped))
    assert after < 0.1 * before
    means = (mapped.mean(0) - source.mean(0)).norm()
    assert (means < 0.2) == (name == "mmd")


def test_reversal_is_exactly_the_identity_forward_and_minus_lambda_backward():
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    for lam in (0.0, 0.3, torch.tensor(2.0)):
        out = reverse_gradient(x, lam)
        assert torch.equal(out, x)
        [back] = torch.autograd.grad(out.sin().sum(), x)
        torch.testing.assert_close(back, -lam * x.cos())
    [under] = torch.func.vmap(torch.func.grad(lambda x: reverse_gradient(x, 0.3).sin().sum()))(x[None])
    torch.testing.assert_close(under, -0.3 * x.cos())


class OnePart:
    """A learner that has the domain classifier alone."""

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier

    def part(self, name: str, *args: Tensor) -> Tensor:
        assert name == PART
        return self.classifier(*args)


def test_the_bodys_gradient_is_minus_lambda_times_the_differences_of_the_domain_loss():
    """Ganin's eq. 9: the classifier descends its loss, and the features climb it lambda times."""
    torch.manual_seed(0)
    classifier = domain_classifier(3, 6).double()
    source, target = gaussians(4, 5)
    source, target = source.requires_grad_(), target.requires_grad_()
    lam, step = 0.7, 1e-6
    hooks = DANN(1.0, lam, 10.0, 6, False).hooks()

    def without(learner, query, progress):  # an objective of nothing
        return TaskResult(torch.zeros(()).double(), query.query.y, {}, {})

    class Known(OnePart):
        def features(self, x: Tensor) -> Tensor:
            return x

    images, of_target = (t.detach()[:, :, None, None].requires_grad_() for t in (source, target))
    query = Batch(images, torch.zeros(4), of_target)
    made = hooks.wrap_objective(lambda outer: without, None)(None)  # type: ignore[arg-type]
    loss = made(Known(classifier), Episode(query, query), torch.zeros(())).loss  # type: ignore[arg-type]
    found = torch.autograd.grad(loss, [images, of_target, *classifier.parameters()])

    def plain(s: Tensor, t: Tensor) -> Tensor:
        """Return -mean log(1 - d) on the source - mean log d on the target, d the probability of the target."""
        return -(1 - classifier(s).sigmoid()).log().mean() - classifier(t).sigmoid().log().mean()

    with torch.no_grad():
        torch.testing.assert_close(loss, plain(source, target))
        for i, (gradient, at) in enumerate(zip(found[:2], (source, target), strict=True)):
            for place in np.ndindex(*at.shape):
                moved = [[source.clone(), target.clone()] for _ in range(2)]
                moved[0][i][place] += step
                moved[1][i][place] -= step
                slope = (plain(*moved[0]) - plain(*moved[1])) / (2 * step)
                assert gradient.flatten(1)[place] == pytest.approx(-lam * slope.item(), abs=1e-8)
    own = torch.autograd.grad(plain(source, target), list(classifier.parameters()))
    for mine, theirs in zip(found[2:], own, strict=True):
        torch.testing.assert_close(mine, theirs)  # which is not reversed


def test_lambda_rises_as_in_the_paper():
    at = [reversal_strength(torch.tensor(p), 10.0).item() for p in (0.0, 0.1, 0.5, 1.0)]
    assert at[0] == 0
    assert at == pytest.approx([2 / (1 + math.exp(-10 * p)) - 1 for p in (0.0, 0.1, 0.5, 1.0)], abs=1e-6)
    assert domain_loss(torch.zeros(6, 1), 2).item() == pytest.approx(2 * math.log(2))


def test_pseudo_labels_by_hand():
    """Probabilities 0.9, 0.6 and 0.5: of these only the first is sure enough at 0.7, the first two at 0.6."""
    p = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)
    logits = p.log().requires_grad_()
    assert pseudo_label_loss(logits, 0.7).item() == pytest.approx(-math.log(0.9) / 3)
    assert pseudo_label_loss(logits, 0.59).item() == pytest.approx(-(math.log(0.9) + math.log(0.6)) / 3)
    every = -(math.log(0.9) + math.log(0.6) + math.log(0.5)) / 3
    assert pseudo_label_loss(logits, 0.0).item() == pytest.approx(every)
    [gradient] = torch.autograd.grad(pseudo_label_loss(logits, 0.7), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.1, 0.1], [0, 0], [0, 0]]).double() / 3)


def test_the_ramp_is_lees():
    at = [ramp(torch.tensor(p), 0.1, 0.6).item() for p in (0.0, 0.1, 0.35, 0.6, 1.0)]
    assert at == pytest.approx([0, 0, 0.5, 1, 1])
    assert [ramp(torch.tensor(p), 0.5, 0.5).item() for p in (0.4, 0.5)] == [0, 1]


def test_entropy_of_target_predictions_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)

    class Head:
        def features(self, x: Tensor) -> Tensor:
            return x

        def part(self, name: str, x: Tensor) -> Tensor:
            assert name == "head"
            return x

    images = p.log()[:, :, None, None]
    query = Batch(torch.zeros(2, 2, 1, 1).double(), torch.zeros(2), images)

    def objective(learner, episode, progress):
        return TaskResult(torch.ones(()).double(), episode.query.y, {}, {})

    made = EntropyTarget(0.3, False).hooks().wrap_objective(lambda outer: objective, None)(None)  # type: ignore[arg-type]
    value = made(Head(), Episode(query, query), torch.zeros(())).loss  # type: ignore[arg-type]
    entropy = (-0.9 * math.log(0.9) - 0.1 * math.log(0.1) + math.log(2)) / 2
    assert value.item() == pytest.approx(1 + 0.3 * entropy)


class Counted:
    """A learner of images' pixels that counts the passes through its body."""

    def __init__(self) -> None:
        self.passes: list[int] = []

    def features(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        return x - x.mean(0)  # as a batch norm, so that who passes together can be seen

    def part(self, name: str, *args: Tensor) -> Tensor:
        return args[0]


@pytest.mark.parametrize("joint", [False, True])
def test_source_and_target_pass_once_apart_or_together(joint):
    learner, x, other = Counted(), torch.rand(3, 2, 1, 1), torch.rand(4, 2, 1, 1)
    query = Batch(x, torch.zeros(3), other)
    known = known_features(learner, query, joint)  # type: ignore[arg-type]
    assert torch.equal(known(x), known.source.flatten(1))
    assert known_features(known, query, joint) is known  # type: ignore[arg-type]
    assert learner.passes == ([7] if joint else [3, 4])
    whole = torch.cat([x, other])
    expected = (whole - whole.mean(0)).split([3, 4]) if joint else (x - x.mean(0), other - other.mean(0))
    for mine, theirs in zip((known.source, known.target), expected, strict=True):
        assert torch.equal(mine, theirs)
    known.features(x.clone())  # other images are others
    assert len(learner.passes) == (2 if joint else 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMD(-1.0, (1.0,), "biased", False), r"reg\.mmd\.weight=-1: expected 0 or more"),
        (lambda: MMD(1.0, (), "biased", False), r"reg\.mmd\.multiples=\[\]: expected numbers above 0"),
        (lambda: MMD(1.0, (1.0, 0.0), "biased", False), r"reg\.mmd\.multiples=\[1\.0, 0\.0\]: expected numbers"),
        (lambda: CORAL(-0.5, False), r"reg\.coral\.weight=-0\.5: expected 0 or more"),
        (lambda: DANN(-1.0, None, 10.0, 5, False), r"reg\.dann\.weight=-1: expected 0 or more"),
        (lambda: DANN(1.0, -1.0, 10.0, 5, False), r"reg\.dann\.lam=-1: expected 0 or more, as the gradient is"),
        (lambda: DANN(1.0, None, 0.0, 5, False), r"reg\.dann\.gamma=0: expected a number above 0"),
        (lambda: DANN(1.0, None, 10.0, 0, False), r"reg\.dann\.hidden=0: expected 1 unit or more"),
        (lambda: EntropyTarget(-1.0, False), r"reg\.entropy_target\.weight=-1: expected 0 or more"),
        (lambda: PseudoLabels(1.0, 1.5, 0.0, 1.0, False), r"reg\.pseudo_labels\.threshold=1\.5: expected a prob"),
        (lambda: PseudoLabels(1.0, 0.5, 0.6, 0.1, False), r"reg\.pseudo_labels\.ramp_start=0\.6, ramp_end=0\.1"),
        (lambda: squared_mmd(torch.ones(1, 2), torch.ones(3, 2), (1.0,), "biased"), r"reg\.mmd compares 1 images"),
        (lambda: coral_loss(torch.ones(1, 2), torch.ones(3, 2)), r"reg\.coral: one image has no covariance"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()
