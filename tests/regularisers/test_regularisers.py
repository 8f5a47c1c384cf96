"""Each regulariser by hand, on both engines, and what is refused by name."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from metalab import train
from metalab.assemble import method, regularisation
from metalab.attacks.fgsm import FGSM
from metalab.attacks.losses import divergence
from metalab.attacks.pgd import PGD
from metalab.config import conf_dir
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorised import Vectorised
from metalab.errors import UserError
from metalab.interfaces import Batch, Engine, Episode, Loss, Objective
from metalab.objectives.judge import cross_entropy, together
from metalab.recipe import recipe
from metalab.regularisers import Penalised, Regulariser, Setting, combine
from metalab.regularisers.adversarial import AdvFGSM, AdvPGD, How, On, Where, attacked_loss
from metalab.regularisers.features import DropBlock
from metalab.regularisers.images import Noise
from metalab.regularisers.mixing import CutMix, Mixup, share_of, table
from metalab.regularisers.outputs import Confidence, Entropy, LabelSmoothing
from metalab.regularisers.weights import L2, GradientNorm
from tests.attacks.nets import CASES, PROGRESS, episodes, net_of


def fgsm(on: On = "query", where: Where = "outer", how: How = "replace", weight=1.0, random_start=False) -> AdvFGSM:
    return AdvFGSM(20.0, "linf", None, random_start, "cross_entropy", on, where, how, weight)


def pgd(on: On = "query", how: How = "replace", random_start=False) -> AdvPGD:
    return AdvPGD(20.0, "linf", 3, 7.0, random_start, "margin", on, "outer", how, 0.5)


def objective(case: str, regularisers: list[Regulariser]) -> Objective:
    """As recipe.objective puts it together."""
    algorithm, kind, steps = CASES[case]
    terms = combine(regularisers)
    inner = terms.inner(cross_entropy)

    def make(loss: Loss) -> Objective:
        return kind(algorithm, steps, inner, loss, together)

    return Penalised(terms.around(make, Setting(algorithm, steps, inner))(terms.outer(cross_entropy)), terms.penalty)


def found(engine: Engine, case: str, regularisers: list[Regulariser]) -> tuple[Tensor, dict[str, Tensor]]:
    net = net_of(CASES[case][0])
    result = engine.grad(objective(case, regularisers), net, episodes(), PROGRESS)
    return result.loss, {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


EXACT: dict[str, list[Regulariser]] = {  # what draws no random numbers
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


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("case", ["maml", "anil", "protonet"])
def test_the_two_engines_agree(case, name):
    if case == "protonet" and name == "inner":
        pytest.skip("a metric method has no inner steps")
    (a, slow), (b, fast) = (found(engine, case, EXACT[name]) for engine in (Learn2Learn(), Vectorised(None)))
    assert (a - b).abs().max() < 1e-9
    assert set(slow) == set(fast)
    assert max((slow[n] - fast[n]).abs().max() for n in slow) < 1e-8
    plain, _ = found(Vectorised(None), case, [])
    assert (plain - b).abs().max() > 1e-4  # and it does something


RANDOM: dict[str, Regulariser] = {
    "trades": fgsm(how="trades", random_start=True),
    "pgd": pgd(random_start=True),
    "noise": Noise(30.0, "sign", "both"),
    "mixup": Mixup(0.5),
    "cutmix": CutMix(1.0),
}


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorised(None)], ids=["loop", "vmap"])
@pytest.mark.parametrize("name", RANDOM)
def test_what_draws_gives_a_finite_gradient_of_another_loss_on_both_engines(name, engine):
    for case in ("maml", "protonet"):
        torch.manual_seed(0)
        loss, gradient = found(engine, case, [RANDOM[name]])
        plain, clean = found(engine, case, [])
        assert (loss - plain).abs().min() > 1e-6
        assert all(g.isfinite().all() for g in gradient.values())
        assert any(not torch.allclose(gradient[n], clean[n]) for n in clean)


# ---- adversarial training, by hand


@pytest.fixture
def one():
    algorithm, _, steps = CASES["maml"]
    episode = task(episodes(), 0)
    learner = TaskLearner(net_of(algorithm), True)
    return algorithm, steps, episode, learner


def loss_of(algorithm, steps, learner, support: Batch, query: Batch) -> Tensor:
    *_, model = algorithm.adapt(learner, support, cross_entropy, steps)
    return cross_entropy(model, query)


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


# ---- the others, by hand

LOGITS, Y = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
BATCH = Batch(torch.zeros(2, 1, 1, 1), Y, torch.zeros(0, 1, 1, 1))


def value(part: Regulariser) -> Tensor:
    return part.terms().outer(cross_entropy)(lambda x: LOGITS, BATCH)


def test_label_smoothing_is_torchs():
    expected = nn.functional.cross_entropy(LOGITS, Y, label_smoothing=0.1)
    torch.testing.assert_close(value(LabelSmoothing(0.1, 0.0)), expected)
    inner = LabelSmoothing(0.0, 0.1).terms()
    torch.testing.assert_close(inner.inner(cross_entropy)(lambda x: LOGITS, BATCH), expected)
    assert inner.outer(cross_entropy) is cross_entropy


def test_the_confidence_penalty_is_least_at_one_half():
    p = LOGITS.softmax(1)
    expected = cross_entropy(lambda x: LOGITS, BATCH) - 0.3 * (p * (1 - p)).log().mean()
    torch.testing.assert_close(value(Confidence(0.3)), expected)

    def penalty(lead: float) -> float:
        pair = Batch(BATCH.x[:1], torch.tensor([0]), BATCH.unlabelled)
        logits = torch.tensor([[lead, 0.0]])
        whole = Confidence(1.0).terms().outer(cross_entropy)(lambda x: logits, pair)
        return (whole - cross_entropy(lambda x: logits, pair)).item()

    assert penalty(0.0) == pytest.approx(math.log(4))
    assert penalty(-3) > penalty(-1) > penalty(0.0) < penalty(1) < penalty(3)
    assert penalty(200.0) == pytest.approx(200, rel=1e-3)  # 1-p is 0 in float32, its logarithm is not


def test_entropy_by_hand():
    p = LOGITS.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(value(Entropy(0.5)), cross_entropy(lambda x: LOGITS, BATCH) - 0.5 * entropy)


def test_the_gradient_norm_is_of_the_support_loss_at_theta(one):
    algorithm, steps, episode, learner = one
    got = objective("maml", [GradientNorm(0.3)])(learner, episode, PROGRESS).loss
    names = [n for n in learner.parameters() if n.startswith(("body.", "head."))]
    at = learner.grad(lambda here: cross_entropy(here, episode.support), names)
    square = sum(g.square().sum() for g in at.values())
    torch.testing.assert_close(got, loss_of(algorithm, steps, learner, *episode) + 0.3 * square)


def test_mixup_and_cutmix_mix_the_images_as_they_mix_the_losses():
    x = torch.cat([torch.zeros(1, 1, 20, 20), torch.ones(1, 1, 20, 20)])
    batch, seen = Batch(x, torch.tensor([0, 1]), x[:0]), []

    def ones(images: Tensor) -> Tensor:
        seen.append(images)
        share = images.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(share), share], 1)

    def label(model, batch: Batch) -> Tensor:
        model(batch.x)
        return batch.y.float()[1]  # of the second image

    for part in (Mixup(1.0), CutMix(1.0)):
        torch.manual_seed(1)
        shares = []
        for _ in range(40):
            seen.clear()
            mean = part.terms().outer(label)(ones, batch)
            assert len(seen) == 1  # one pass
            torch.testing.assert_close(mean, seen[0][1].mean())  # its label's share is its pixels' share
            shares.append(mean.item())
        assert min(shares) < 0.4
        assert max(shares) > 0.9
        values = seen[0].unique()
        assert (len(values) > 2) == isinstance(part, Mixup) or len(values) == 2


def test_the_shares_are_beta_distributed():
    torch.manual_seed(0)
    quantiles, like = table(0.4), torch.zeros(1, 1, 1, 1)
    drawn = torch.stack([share_of(quantiles, like) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)


def test_noise_has_its_size_and_its_place():
    learner = None
    x = torch.full((50, 1, 8, 8), 0.5)
    episode = Episode(Batch(x, torch.zeros(50).long(), x[:0]), Batch(x, torch.zeros(50).long(), x[:0]))
    for kind, deviation in {"sign": 0.1, "uniform": 0.1 / 3**0.5}.items():
        for on in ("query", "support", "both"):
            seen = []

            def watch(outer, seen=seen):
                return lambda learner, episode, progress: seen.append(episode)

            made = Noise(25.5, kind, on).terms().around(watch, None)  # type: ignore[arg-type]
            made(cross_entropy)(learner, episode, PROGRESS)  # type: ignore[arg-type]
            for part, named in zip(seen[0], ("support", "query"), strict=True):
                if on in (named, "both"):
                    assert (part.x - 0.5).std() == pytest.approx(deviation, rel=0.05)
                    assert (part.x - 0.5).abs().max() <= 0.1 + 1e-6
                else:
                    assert torch.equal(part.x, x)
    white = Batch(torch.ones(4, 1, 2, 2), torch.zeros(4).long(), x[:0])
    made = Noise(25.5, "sign", "query").terms().around(watch, None)  # type: ignore[arg-type]
    seen.clear()
    made(cross_entropy)(learner, Episode(white, white), PROGRESS)  # type: ignore[arg-type]
    assert seen[0].query.x.max() <= 1


def test_dropblock_drops_blocks_in_training_only():
    torch.manual_seed(0)
    drop = DropBlock(0.3, 3).terms().drop
    assert drop is not None
    x = torch.ones(20, 8, 9, 9)
    assert (drop.train()(x) == 0).float().mean() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(drop.eval()(x), x)


# ---- every option trains, and what does nothing is refused by name

OPTIONS = sorted(path.stem for path in (conf_dir() / "reg").glob("*.yaml") if path.stem != "none")
ONE_STEP = ("train.steps=1", "train.val_every=1", "train.val_episodes=2", "train.meta_batch=2", "task.query=2")


def test_every_option_trains_on_the_vectorised_engine(small, tmp_path):
    for option in OPTIONS:
        train.run(small(f"reg={option}", "engine=vectorised", *ONE_STEP), tmp_path / option)


def built(words: list[str], small, steps: int, algo: str | None = None):
    cfg = small(*words, *([f"algo={algo}"] if algo else []))
    return regularisation(cfg.reg, steps, method(cfg.algo, 5, test=False)[0] if algo else None)


@pytest.mark.parametrize("option", ["label_smoothing", "mixup", "noise", "adv_fgsm", "adv_pgd"])
def test_what_works_on_the_query_is_refused_where_it_is_not_learned_from(option, small):
    message = f"reg.{option} works on the loss of the query, from which this algorithm does not learn"
    with pytest.raises(UserError, match=re.escape(message)):
        built([f"reg={option}"], small, 5, "reptile")
    built([f"reg={option}"], small, 5, "maml")
    built(["reg=adv_fgsm", "reg.adv_fgsm.on=support"], small, 5, "reptile")


def test_what_works_on_the_support_is_refused_where_there_is_none(small):
    message = "works on the support, and this algorithm trains on mini-batches, without one"
    for words in (["reg=gradient_norm"], ["reg=adv_pgd", "reg.adv_pgd.on=both"]):
        with pytest.raises(UserError, match=message):
            built(words, small, 5, "baseline")
    built(["reg=adv_pgd"], small, 5, "baseline")


def test_augmentation_reaches_the_images_that_are_trained_on_alone(small):
    plain, changed = (recipe(small(*words)) for words in ((), ("reg=augment", "reg.augment.crop=2")))
    for part in (0, 1):
        assert not torch.equal(plain.training("train", 2)(0)[part].x, changed.training("train", 2)(0)[part].x)
        assert torch.equal(plain.training("running", 2)(0)[part].x, changed.training("running", 2)(0)[part].x)
        assert torch.equal(plain.validation()(0)[part].x, changed.validation()(0)[part].x)
    with pytest.raises(UserError, match=r"reg.augment.flip=2: expected a number from 0 to 1"):
        recipe(small("reg=augment", "reg.augment.flip=2"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["where=inner"], "reg.adv_fgsm.where=inner with reg.adv_fgsm.on=query: the inner steps see the support alone"),
        (["where=inner", "on=support"], "reg.adv_fgsm.where works on inner steps and this algorithm has none"),
        (["how=trades"], "reg.adv_fgsm.how=trades with reg.adv_fgsm.random_start=false: at the image itself KL is"),
        (["how=trades", "on=both"], "reg.adv_fgsm.how=trades with reg.adv_fgsm.on=both: it compares one model's"),
        (["on=crossed", "how=add"], "reg.adv_fgsm.on=crossed is the mean of its two halves"),
        (["weight=-1"], "reg.adv_fgsm.weight=-1: expected 0 or more"),
        (["eps=-1"], "reg.adv_fgsm.eps=-1: expected a size in 255ths"),
    ],
)
def test_what_cannot_be_is_told(words, message, small):
    with pytest.raises(UserError, match=re.escape(message)):
        built(["reg=adv_fgsm", *(f"reg.adv_fgsm.{word}" for word in words)], small, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSmoothing(1.0, 0.0), "reg.label_smoothing has weight=1, inner=0"),
        (lambda: Confidence(-1.0), "reg.confidence.weight=-1: below 0 the loss has no least value"),
        (lambda: GradientNorm(-1.0), "reg.gradient_norm.weight=-1: expected 0 or more"),
        (lambda: Mixup(0.0), "reg.mixup.alpha=0: expected a number above 0"),
        (lambda: CutMix(-1.0), "reg.cutmix.alpha=-1: expected a number above 0"),
        (lambda: Noise(256.0, "sign", "query"), "reg.noise.eps=256: expected a size in 255ths"),
        (lambda: DropBlock(1.0, 5), "reg.dropblock.p=1.0; a share from 0"),
        (lambda: DropBlock(0.1, 0), "reg.dropblock.block=0: expected a side of 1 or more"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()
