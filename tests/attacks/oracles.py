"""torchattacks' and foolbox's attacks beside ours."""

from collections.abc import Callable
from typing import Any

import foolbox
import torch
import torchattacks
from torch import Tensor, nn

from metalab.attacks.apgd import APGD
from metalab.attacks.base import Attack, l2_norm
from metalab.attacks.fab import FAB
from metalab.attacks.fgsm import FGSM
from metalab.attacks.pgd import PGD
from metalab.core.interfaces import Batch, Model
from metalab.evaluation.robust_objective import robust_correct

EPS, L2, STEPS = 8 / 255, 0.8, 10


class Adapted(nn.Module):
    """A task's model as the module that the oracles want."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.device = model, nn.Parameter(torch.zeros(()))  # torchattacks reads the device off a parameter

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def theirs(kind: Any, eps: float = EPS, **given: Any) -> Callable[[Model, Batch], Tensor]:
    """Return what an attack of torchattacks leaves right; its set_mode would put our net into eval mode anyway."""

    def left(model: Model, query: Batch) -> Tensor:
        wrapped = Adapted(model).eval()
        x = kind(wrapped, eps=eps, **given)(query.x, query.y)
        assert ((x - query.x).abs() if eps == EPS else l2_norm(x - query.x)).max() <= eps + 1e-5
        return model(x).argmax(1) == query.y

    return left


def foolbox_left(attack: Any, eps: float = EPS) -> Callable[[Model, Batch], Tensor]:
    def left(model: Model, query: Batch) -> Tensor:
        wrapped = foolbox.PyTorchModel(Adapted(model).eval(), bounds=(0, 1), device="cpu")
        x = attack(wrapped, query.x, query.y, epsilons=eps)[1]
        return model(x).argmax(1) == query.y

    return left


def ours(attack: Attack, last: bool) -> Callable[[Model, Batch], Tensor]:
    """Return what ours leaves right: at the end alone, as the oracles judge, or at all it tried, as reports do."""

    def left(model: Model, query: Batch) -> Tensor:
        if last:
            return model(attack(model, query.x, query.y)).argmax(1) == query.y
        return robust_correct(attack, model, query, [])

    return left


STEP = EPS / 4


PAIRS = {
    "fgsm": (FGSM(EPS, "linf", None, False, "cross_entropy"), theirs(torchattacks.FGSM)),
    "pgd": (
        PGD(EPS, "linf", STEPS, STEP, True, 1, "cross_entropy"),
        theirs(torchattacks.PGD, alpha=STEP, steps=STEPS, random_start=True),
    ),
    "apgd": (
        APGD(EPS, "linf", STEPS, 1, "cross_entropy", 0),
        theirs(torchattacks.APGD, steps=STEPS, n_restarts=1, loss="ce"),
    ),
    "foolbox_fgsm": (
        FGSM(EPS, "linf", None, False, "cross_entropy"),
        foolbox_left(foolbox.attacks.FGSM(random_start=False)),
    ),
    "foolbox_pgd": (
        PGD(EPS, "linf", STEPS, STEP, True, 1, "cross_entropy"),
        foolbox_left(foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)),
    ),
}


FURTHER = {  # over 200 episodes alone
    "fab": (
        FAB(EPS, "linf", STEPS // 2, 1, 9),
        theirs(torchattacks.FAB, steps=STEPS // 2, n_classes=5, multi_targeted=True),
    ),
    "pgd_l2": (
        PGD(L2, "l2", STEPS, L2 / 4, True, 1, "cross_entropy"),
        theirs(torchattacks.PGDL2, L2, alpha=L2 / 4, steps=STEPS, random_start=True),
    ),
    "foolbox_pgd_l2": (
        PGD(L2, "l2", STEPS, L2 / 4, True, 1, "cross_entropy"),
        foolbox_left(foolbox.attacks.L2PGD(abs_stepsize=L2 / 4, steps=STEPS, random_start=True), L2),
    ),
    "foolbox_fgsm_l2": (
        FGSM(L2, "l2", None, False, "cross_entropy"),
        foolbox_left(foolbox.attacks.FGM(random_start=False), L2),
    ),
    "apgd_l2": (
        APGD(L2, "l2", STEPS, 1, "cross_entropy", 0),
        theirs(torchattacks.APGD, L2, norm="L2", steps=STEPS, n_restarts=1, loss="ce"),
    ),
    "apgd_dlr": (
        APGD(EPS, "linf", STEPS, 1, "dlr", 0),
        theirs(torchattacks.APGD, steps=STEPS, n_restarts=1, loss="dlr"),
    ),
    "apgd_targeted": (
        APGD(EPS, "linf", STEPS, 1, "dlr", 4),
        theirs(torchattacks.APGDT, steps=STEPS, n_restarts=1, n_classes=5),
    ),
}
