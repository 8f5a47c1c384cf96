"""The alphas of boosted runs, as their trainings recorded them: the weights of their votes."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalab.config import run_config
from metalab.core.errors import UserError


def recorded_alphas(folders: Sequence[Path]) -> list[float]:
    """Return the alpha of each of the runs of a boosted chain, the last of which names the others in train.boost.

    Raises:
        UserError: where the last run was not boosted by the others, in this order, or has not ended.
    """
    last = folders[-1]
    boost = _boost(last)
    if boost is None and run_config.read(last).get("train", {}).get("boost"):
        boost = {}  # it is written at the end of the training
    if boost is None:
        raise UserError(
            f"ensemble=samme: {last} was not trained with train.boost, which records alphas: type ensemble=mean"
        )
    names, alphas, own = boost.get("runs"), boost.get("alphas"), boost.get("alpha")
    if own is None and boost.get("error") is not None:
        raise UserError(
            f"ensemble=samme: {last} has a weighted error of {boost['error']} on the training data, for which "
            "SAMME has no alpha: leave it out, or type ensemble=mean"
        )
    if own is None:
        raise UserError(
            f"ensemble=samme: {last} has no alpha of its own yet: its training has not ended, resume={last}"
        )
    names, alphas = (each if isinstance(each, list) else [] for each in (names, alphas))
    if not names or len(names) != len(alphas) or not all(map(_number, [*alphas, own])):
        raise UserError(f"{last / 'run.json'}: boost is not what a training wrote: mend it, or train again")
    if [Path(str(name)).resolve() for name in names] != [folder.resolve() for folder in folders[:-1]]:
        whole = ",".join(map(str, [*names, last]))
        raise UserError(f"ensemble=samme: {last} was boosted by other runs, or in another order: give run=[{whole}]")
    return [float(alpha) for alpha in (*alphas, own)]


def _boost(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    try:
        held: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"ensemble=samme: {path} cannot be read ({error}), and it has the run's alpha") from error
    boost = held.get("boost") if isinstance(held, dict) else None
    return boost if isinstance(boost, dict) else None


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
