"""How an attack is built of its settings: 255ths, and mistakes."""

import re

import pytest

from metalab.attacks.build import attacks
from metalab.attacks.pgd import PGD
from metalab.core.errors import UserError

NODE = {"eps": 8.0, "norm": "linf", "on": "query"}

ONE = {"_target_": "metalab.attacks.PGD", "steps": 20, "step": None, "random_start": True, "restarts": 1}

PGD_NODE = ONE | {"loss": "margin"}


def test_255ths_are_converted_once():
    shared, built = attacks(NODE | {"pgd": PGD_NODE | {"step": 2}}, [0, 51.0])
    assert shared.eps == 8
    assert list(built) == [("pgd", 0), ("pgd", 51.0)]
    pgd = built["pgd", 51.0]
    assert isinstance(pgd, PGD)
    assert (pgd.eps, pgd.step) == (0.2, pytest.approx(2 / 255))
    assert attacks(NODE, None)[1] == {}


@pytest.mark.parametrize(
    ("change", "curve", "message"),
    [
        ({"eps": 300.0}, None, "attack.eps=300: expected a size in 255ths of the image's range, 0 to 255"),
        ({"norm": "l1"}, None, "attack.norm=l1 (text): expected one of linf, l2"),
        ({"on": "all"}, None, "attack.on=all (text): expected one of query, support, both"),
        ({"support": "own"}, None, "attack.support=own (text): expected one of adapt, own_loss"),
        ({"pgd": PGD_NODE | {"steps": 0}}, None, "PGD has steps=0; a whole number, 1 or more, is expected"),
        ({"pgd": PGD_NODE | {"step": -1}}, None, "PGD has step=-1; a size in 255ths above 0"),
        ({"pgd": PGD_NODE | {"step": "a"}}, None, "attack.pgd.step=a"),
        ({"pgd": PGD_NODE | {"size": 1}}, None, "attack.pgd.size=1: PGD has no such setting. There is: loss"),
        ({"esp": 3}, None, "attack.esp=3: there is no such setting; attacks share attack.eps, attack.norm"),
        ({"pgd": PGD_NODE}, [-1.0], "eval.eps=-1: expected a size in 255ths"),
        ({"pgd": PGD_NODE}, [], "eval.eps=[]: expected sizes in 255ths, as in eval.eps=[0,2,8]"),
        ({}, [8.0], "eval.eps asks for a curve and no attack is chosen; type attack=pgd as well"),
        (
            {"norm": "l2", "s": {"_target_": "metalab.attacks.Square", "queries": 9, "share": 1.8}},
            None,
            "Square has share=1.8; a part of the image above 0 and at most 1 is expected",
        ),
    ],
)
def test_mistakes_are_told(change, curve, message):
    with pytest.raises(UserError, match=re.escape(message)):
        attacks(NODE | change, curve)
