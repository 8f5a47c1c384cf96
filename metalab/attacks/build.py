"""From the group attack to attacks: the one place where 255ths become the [0, 1] of the images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from metalab.attacks.base import Attack, Norm
from metalab.config.instantiate import build, settings
from metalab.core.errors import UserError
from metalab.core.interfaces import AttackedImages

IN_255THS = ("eps", "step")  # the keys of an attack that are sizes
SupportAttackLoss = Literal["adapt", "own_loss"]
SHARED = ("eps", "norm", "on", "support")


@dataclass(frozen=True)
class AttackSettings:
    """What all attacks of an evaluation share."""

    eps: float  # 255ths
    norm: Norm
    on: AttackedImages
    support: SupportAttackLoss = (
        "adapt"  # what an attack on the support climbs, see algorithms/objectives/support_attack.py
    )

    def __post_init__(self) -> None:
        in_range("attack.eps", self.eps)

    @property
    def through_adapt(self) -> bool:
        """Whether the support is attacked, through the adaptation to it."""
        return self.on != "query" and self.support == "adapt"


def in_range(key: str, eps: float) -> None:
    """Raise UserError for a size that is no number of 255ths from 0 to 255."""
    if not 0 <= eps <= 255:
        raise UserError(f"{key}={eps:g}: expected a size in 255ths of the image's range, 0 to 255, as in {key}=8")


def scaled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attack's settings with the sizes in [0, 1]; what is no number is left for the check of types."""
    sizes = {k: v / 255 for k, v in values.items() if k in IN_255THS and type(v) in (int, float)}
    return {**values, **sizes}


def attacks(
    node: Mapping[str, Any], curve: list[float] | None
) -> tuple[AttackSettings, dict[tuple[str, float], Attack]]:
    """Build the attacks of the group attack.

    Args:
        node: what all of them share (eps, norm, on, support), and a group for each that is chosen.
        curve: sizes in 255ths in the place of attack.eps, eval.eps; None: attack.eps alone.

    Returns:
        What they share, and each attack at each size by (name, size in 255ths); none where none is chosen.

    Raises:
        UserError: naming the key that is wrong.
    """
    parts = {k: v for k, v in node.items() if k not in SHARED}
    shared = settings(AttackSettings, {k: v for k, v in node.items() if k not in parts}, "attack")
    if curve is not None and not curve:
        raise UserError("eval.eps=[]: expected sizes in 255ths, as in eval.eps=[0,2,8], or null for attack.eps alone")
    if curve is not None and not parts:
        raise UserError("eval.eps asks for a curve and no attack is chosen; type attack=pgd as well")
    for eps in curve or []:
        in_range("eval.eps", eps)
    built = {}
    for name, part in parts.items():
        for eps in curve or [shared.eps]:
            own = scaled(settings_of(part, f"attack.{name}"))
            built[name, eps] = build(own, f"attack.{name}", eps=eps / 255, norm=shared.norm)
    return shared, built


def settings_of(part: Any, where: str) -> dict[str, Any]:
    """Return an attack's own settings; UserError where the name of a shared key was mistyped."""
    if not isinstance(part, Mapping):
        raise UserError(
            f"{where}={part}: there is no such setting; attacks share attack.eps, attack.norm, attack.on and "
            "attack.support"
        )
    return {str(k): v for k, v in part.items()}
