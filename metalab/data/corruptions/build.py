"""From eval.corrupt to kinds and severities, and from images to corrupted ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metalab.config.schema import Eval
from metalab.core.errors import UserError
from metalab.data.corruptions import blur, digital, noise, weather
from metalab.data.corruptions.base import SEVERITIES, Draws, Kind

KINDS: dict[str, Kind] = {**noise.KINDS, **blur.KINDS, **weather.KINDS, **digital.KINDS}  # in the paper's order


def corrupted(x: Tensor, kind: str, severity: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Return corrupted images; the same generators give the same ones on every device, up to rounding.

    Args:
        x: [T,N,C,H,W] in [0,1], of 1 or 3 channels.
        kind: a key of KINDS.
        severity: 1 to 5.
        generators: [T], on the CPU, one an episode.

    Returns:
        [T,N,C,H,W] in [0,1].
    """
    if x.shape[1] == 0:
        return x
    level = KINDS[kind].level(severity, min(x.shape[-2:]))
    return KINDS[kind].corrupt(x, level, Draws(generators, x.device)).clamp(0, 1)


def kinds(evaluation: Eval) -> list[str]:
    """Return the kinds of corruption that eval.corrupt asks for, in the paper's order; none where it is null."""
    asked = evaluation.corrupt
    if asked is None:
        return []
    names = list(KINDS) if asked == "all" else [asked] if isinstance(asked, str) else asked
    wrong = [name for name in names if name not in KINDS]
    if wrong or not names:
        what = f"there is no corruption {wrong[0]}" if wrong else "expected kinds of corruption"
        raise UserError(
            f"eval.corrupt=[{','.join(names)}]: {what}; type all, or one or several of {', '.join(KINDS)}, as in "
            "'eval.corrupt=[fog,jpeg_compression]'"
        )
    return [name for name in KINDS if name in names]


def check_corruptions(evaluation: Eval, attack: Mapping[str, Any], by_image: bool) -> None:
    """Raise UserError where eval.corrupt is wrong, or does not go with what else is asked for."""
    if not kinds(evaluation):
        return
    wrong = [severity for severity in evaluation.severities if severity not in SEVERITIES]
    if wrong or not evaluation.severities:
        raise UserError(
            f"eval.severities=[{','.join(map(str, evaluation.severities))}]: expected whole numbers from 1 to 5, as in "
            "'eval.severities=[1,3,5]'"
        )
    chosen = [str(name) for name, part in attack.items() if isinstance(part, Mapping)]
    if chosen:
        raise UserError(
            f"eval.corrupt with attack=[{','.join(chosen)}]: an evaluation has common corruptions or attacks: leave "
            "out one of the two"
        )
    if by_image and evaluation.corrupt_on != "query":
        raise UserError(
            f"eval.corrupt_on={evaluation.corrupt_on}: with data.protocol=images there is no support: type "
            "eval.corrupt_on=query"
        )
