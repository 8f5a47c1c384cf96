"""What a search varies: the distribution of each key, and the keys that no search may vary."""

from collections.abc import Sequence
from decimal import Decimal
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    DiscreteUniformDistribution,
    IntUniformDistribution,
)

from metalab.cli.search.command import key_of, text
from metalab.core.errors import UserError

MEASURES = ("seed", "data", "task", "eval", "experiment", "train.val_episodes", "train.monitor")
TWINS = ("task.way", "task.shot", "task.query", "task.label_noise")  # with one of training alone
OF_TRAINING = ("task.train_", "eval.tent")  # what begins so is no part of the measured episodes


def read_words(params: Any, words: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Return the distribution of each key with a range, and the words of those that have one value.

    Args:
        params: hydra.sweeper.params, a mapping or None; what is typed for one of its keys takes its place.
        words: of the command line.
    """
    typed = set(map(key_of, words))
    settings: Any = OmegaConf.to_container(params, resolve=True) if OmegaConf.is_config(params) else params or {}
    own = [f"{key}={text(value)}" for key, value in settings.items() if key_of(f"{key}=") not in typed]
    every = [*own, *words]
    parsed = OverridesParser.create().parse_overrides(every)
    fixed = [word for word, each in zip(every, parsed, strict=True) if not each.is_sweep_override()]
    return {each.get_key_element(): distribution(each) for each in parsed if each.is_sweep_override()}, fixed


def distribution(override: Override) -> BaseDistribution:
    """Return the distribution of a range; that of range(a,b) is without b, as Hydra means it and Optuna does not."""
    value = override.value()
    if not isinstance(value, RangeSweep) or value.shuffle:
        return create_optuna_distribution_from_override(override)
    values = list(value.range())
    if not values:
        raise UserError(f"{override.input_line}: this range is empty; range(1,4) is 1, 2 and 3")
    low, high, step = min(values), max(values), abs(value.step)
    if all(isinstance(each, int) for each in values):
        return IntUniformDistribution(int(low), int(high), step=int(step))
    return DiscreteUniformDistribution(float(low), float(high), float(step))


def grid(space: dict[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Return each point of a space that has finitely many."""
    values = [_values(key, each) for key, each in space.items()]
    return [dict(zip(space, point, strict=True)) for point in product(*values)]


def refuse_measures(keys: Sequence[str], by: str) -> None:
    """Raise UserError for a key that decides by which episodes a trial is measured.

    Args:
        keys: that are varied.
        by: what varies them, for the message.
    """
    for key in keys:
        name = key.lstrip("+").partition("@")[0]
        held = any(name == each or name.startswith(f"{each}.") for each in MEASURES)
        if held and not name.startswith(OF_TRAINING):
            twin = f"task.train_{name.removeprefix('task.')}"
            other = f", or vary {twin}, which is of training alone" if name in TWINS else ""
            raise UserError(
                f"{by} varies {name}, by which the trials are measured: the easiest episodes would win, not the best "
                f"settings. Type one value, as {name}=VALUE{other}"
            )


def _values(key: str, each: BaseDistribution) -> Sequence[Any]:
    if isinstance(each, CategoricalDistribution):
        return each.choices
    if isinstance(each, IntUniformDistribution):
        return range(each.low, each.high + 1, each.step)
    if isinstance(each, DiscreteUniformDistribution):
        low, step = Decimal(str(each.low)), Decimal(str(each.q))
        return [float(low + i * step) for i in range(int((Decimal(str(each.high)) - low) / step) + 1)]
    raise UserError(
        f"hydra/sweeper/sampler=grid tries every point, and {key} has endlessly many: type choice(...) or range(...) "
        "for it, or another sampler"
    )
