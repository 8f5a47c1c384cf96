import re

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from metalab.core.errors import UserError
from metalab.training.optimizers import SGD, Adagrad, Adam, Clip, LRSchedule, MetaOptimizer, RMSprop

NO_CLIP = Clip(None, None)
CONSTANT = LRSchedule("constant", 1, 1.0, 0.0)
STEPS = 30


def rates(rate: LRSchedule) -> list[float]:
    weight = nn.Parameter(torch.zeros(1))
    outer = MetaOptimizer(SGD(0.3, 0.0, False, 0.0).build([weight]), rate, NO_CLIP, STEPS)
    weight.grad = torch.zeros(1)
    return [outer.step(step)[1] for step in range(STEPS)]


def torchs(make) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = make(optimizer)
    values = []
    for _ in range(STEPS):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("rate", "make"),
    [
        (CONSTANT, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (LRSchedule("step", 7, 0.5, 0.0), lambda o: lr_scheduler.StepLR(o, step_size=7, gamma=0.5)),
        (LRSchedule("linear", 1, 1.0, 0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=STEPS)),
        (LRSchedule("linear", 1, 1.0, 0.0), lambda o: lr_scheduler.PolynomialLR(o, total_iters=STEPS, power=1.0)),
        (LRSchedule("cosine", 1, 1.0, 0.2), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.06)),
    ],
    ids=["constant", "step", "linear", "to 0", "cosine"],
)
def test_schedules_equal_torchs(rate, make):
    assert rates(rate) == pytest.approx(torchs(make), rel=1e-9)


def test_milestones_are_metaoptnets_schedule():
    """Its rate by epochs, lambda e: 1 below 20, 0.06 below 40, 0.012 below 50, else 0.0024, here an epoch a step."""
    rate = LRSchedule("milestones", 1, 1.0, 0.0, (20, 40, 50), (0.06, 0.012, 0.0024))
    told = [1.0 if e < 20 else 0.06 if e < 40 else 0.012 if e < 50 else 0.0024 for e in range(60)]
    assert [rate.at(e, 60) for e in range(60)] == told
    assert not rate.needs_steps


def test_the_schedule_is_a_function_of_the_step_alone():
    rate = LRSchedule("linear", 1, 1.0, 0.0)
    assert [rate.at(step, 4) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [LRSchedule(s, 1, 1.0, 0.0).needs_steps for s in ("constant", "step", "linear", "cosine")] == [0, 0, 1, 1]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))]
    for p in made[:2]:  # the third took no part
        p.grad = 10 * torch.randn(p.shape)
    return made


@pytest.mark.parametrize(
    ("clip", "torchs"),
    [
        (Clip(None, 1.5), lambda ps: nn.utils.clip_grad_norm_(ps, 1.5)),
        (Clip(2.0, None), lambda ps: nn.utils.clip_grad_value_(ps, 2.0)),
        (NO_CLIP, lambda ps: None),
    ],
    ids=["norm", "value", "none"],
)
def test_clipping_equals_torchs_and_the_norm_is_the_one_before(clip, torchs):
    ours, theirs = parameters(), parameters()
    before = nn.utils.get_total_norm([p.grad for p in theirs if p.grad is not None])
    assert torch.equal(clip(list(ours)), before)
    torchs(theirs)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    assert ours[2].grad is None


def test_both_limits_together_keep_both():
    ours, theirs = parameters(), parameters()
    for p in (ours[0], theirs[0]):
        assert p.grad is not None
        p.grad[0] = 1e6  # the value's limit takes nearly all of the norm
    before = nn.utils.get_total_norm([p.grad for p in theirs if p.grad is not None])
    assert torch.equal(Clip(2.0, 1.0)(list(ours)), before)
    nn.utils.clip_grad_value_(theirs, 2.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    grads = [p.grad for p in ours if p.grad is not None]
    assert all(torch.equal(a, b.grad) for a, b in zip(grads, theirs, strict=False) if b.grad is not None)
    assert nn.utils.get_total_norm(grads).item() == pytest.approx(1.0, rel=1e-4)


def test_parts_may_be_clipped_apart_as_relation_networks_are():
    """Their code clips the norms of its two nets one after the other."""
    ours, theirs = parameters(), parameters()
    outer = MetaOptimizer(
        SGD(0.1, 0.0, False, 0.0).build(list(ours)), CONSTANT, Clip(None, 0.5, True), STEPS, [ours[:1], ours[1:]]
    )
    before = nn.utils.get_total_norm([p.grad for p in theirs[:2] if p.grad is not None])
    assert torch.equal(outer.step(0)[0], before)
    for part in (theirs[:1], theirs[1:]):
        nn.utils.clip_grad_norm_(part, 0.5)
    grads = [(a.grad, b.grad) for a, b in zip(ours[:2], theirs[:2], strict=True)]
    assert all(torch.equal(a, b) and a.norm().item() == pytest.approx(0.5, rel=1e-4) for a, b in grads)  # type: ignore
    together = parameters()
    Clip(None, 0.5)(list(together), [together[:1], together[1:]])
    assert nn.utils.get_total_norm([p.grad for p in together[:2]]).item() == pytest.approx(0.5, rel=1e-4)  # type: ignore


@pytest.mark.parametrize(
    ("part", "make"),
    [
        (Adam(0.01, 0.8, 0.99, 0.0), lambda ps: torch.optim.Adam(ps, lr=0.01, betas=(0.8, 0.99))),
        (Adam(0.01, 0.8, 0.99, 0.1), lambda ps: torch.optim.AdamW(ps, lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)),
        (Adam(0.01, 0.8, 0.99, 0.0, 0.1), lambda ps: torch.optim.Adam(ps, lr=0.01, betas=(0.8, 0.99), eps=0.1)),
        (SGD(0.1, 0.9, True, 0.2), lambda ps: torch.optim.SGD(ps, 0.1, 0.9, nesterov=True, weight_decay=0.2)),
        (RMSprop(0.1, 0.8, 0.3, 0.2), lambda ps: torch.optim.RMSprop(ps, 0.1, 0.8, momentum=0.3, weight_decay=0.2)),
        (Adagrad(0.1, 0.2), lambda ps: torch.optim.Adagrad(ps, 0.1, weight_decay=0.2)),
    ],
    ids=["adam", "adamw", "adam_eps", "sgd", "rmsprop", "adagrad"],
)
def test_optimizers_are_torchs(part, make):
    ours, theirs = parameters(), parameters()
    outer, plain = MetaOptimizer(part.build(list(ours)), CONSTANT, NO_CLIP, STEPS), make(theirs)
    for step in range(3):
        outer.step(step)
        plain.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(0.0, 0.9, 0.999, 0.0), "optim.lr=0: expected a number above 0"),
        (lambda: SGD(-1.0, 0.0, False, 0.0), "optim.lr=-1: expected a number above 0"),
        (lambda: Adam(0.1, 1.0, 0.999, 0.0), "optim.beta1=1: expected 0 up to but not including 1"),
        (lambda: Adam(0.1, 0.9, -0.1, 0.0), "optim.beta2=-0.1: expected 0 up to but not including 1"),
        (lambda: Adam(0.1, 0.9, 0.999, -1.0), "optim.weight_decay=-1: expected 0 or more"),
        (lambda: RMSprop(0.1, 1.0, 0.0, 0.0), "optim.alpha=1: expected 0 up to but not including 1"),
        (lambda: Adagrad(0.0, 0.0), "optim.lr=0: expected a number above 0"),
        (lambda: Adam(0.1, 0.9, 0.999, 0.0, 0.0), "optim.eps=0: expected a number above 0"),
        (lambda: SGD(0.1, 2.0, False, 0.0), "optim.momentum=2: expected 0 to 1"),
        (lambda: SGD(0.1, 0.0, True, 0.0), "optim.nesterov=true needs momentum: type optim.momentum=0.9 or"),
        (lambda: Clip(0.0, None), "optim.clip_value=0: expected a number above 0, or null for no limit"),
        (lambda: Clip(None, -1.0), "optim.clip_norm=-1: expected a number above 0, or null for no limit"),
        (
            lambda: LRSchedule("step", 0, 0.5, 0.0),
            "optim.every=0: expected 1 or more meta-steps, as in optim.every=2000",
        ),
        (lambda: LRSchedule("step", 1, 0.0, 0.0), "optim.factor=0: expected above 0, at most 1"),
        (lambda: LRSchedule("cosine", 1, 0.5, 2.0), "optim.final=2: expected 0 to 1"),
        (
            lambda: LRSchedule("milestones", 1, 0.5, 0.0, (4, 2), (0.1, 0.01)),
            "optim.milestones=[4, 2] with optim.shares=",
        ),
        (
            lambda: LRSchedule("milestones", 1, 0.5, 0.0, (4,), (0.1, 0.01)),
            "expected rising meta-steps and as many shares",
        ),
        (
            lambda: LRSchedule("milestones", 1, 0.5, 0.0, (4,), (0.0,)),
            "shares above 0, as in optim.milestones=[2000,4000]",
        ),
        (
            lambda: LRSchedule("milestones", 1, 0.5, 0.0),
            "optim.schedule=milestones: type when, as optim.milestones=[2000]",
        ),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()
