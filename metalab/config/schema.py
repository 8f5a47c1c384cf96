"""The groups `task`, `train` and `eval` of a configuration, as checked dataclasses."""

import math
from dataclasses import dataclass
from typing import Literal

from metalab.config.validate import check_minimum
from metalab.core.errors import UserError

BN = Literal["batch", "support", "one", "running"]


@dataclass(frozen=True)
class Task:
    """The task that is tested on, and, where it differs, the one that is trained on."""

    way: int
    shot: int
    query: int
    train_way: int | None
    train_shot: int | None
    train_query: int | None
    unlabelled: int = 0
    distractors: int = 0
    support: int | None = None

    @property
    def fixed(self) -> bool:
        """Whether every episode has this way and these shots; else they are the most that are drawn."""
        return self.support is None

    def __post_init__(self) -> None:
        least = {"way": 2, "shot": 1, "query": 1, "train_way": 2, "train_shot": 1, "train_query": 1}
        least |= {"unlabelled": 0, "distractors": 0, "support": 5}
        check_minimum("task", self, least)
        if not self.fixed and (self.unlabelled or self.distractors):
            raise UserError(
                f"task.unlabelled={self.unlabelled} task.distractors={self.distractors}: task=variable has none; "
                "type 0 for both, or task=fixed"
            )


@dataclass(frozen=True)
class Train:
    """How long a run lasts, when it validates and what it keeps."""

    steps: int
    minutes: float | None
    meta_batch: int | None
    val_every: int
    val_episodes: int
    monitor: Literal["accuracy", "loss"]
    patience: int | None
    init: str | None
    bn: Literal["batch", "support"] | None
    log_every: int
    workers: int | None = None
    weights: Literal["xavier", "he", "orthogonal", "torch"] | None = None
    on_warning: Literal["save", "leave"] = "save"

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "meta_batch": 1,
            "val_every": 1,
            "val_episodes": 2,
            "patience": 1,
            "log_every": 1,
            "workers": 0,
        }
        check_minimum("train", self, least)
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"train.minutes={self.minutes:g}: expected more than 0, or null for no limit")
        if self.weights is not None and self.init is not None:
            raise UserError(
                f"train.weights={self.weights} with train.init={self.init}: the weights come from one of them"
            )


@dataclass(frozen=True)
class Predict:
    """How images are classified by a support."""

    strict: bool  # an image that cannot be read ends it
    reject: float | None  # share of the known images that may be lost to mark the unknown ones
    calibrate: bool  # probabilities by a temperature that is fitted on left-out support images
    batch: int  # images that go through the net at once

    def __post_init__(self) -> None:
        check_minimum("predict", self, {"batch": 1})
        if self.reject is not None and not 0 < self.reject <= 0.5:
            raise UserError(f"predict.reject={self.reject:g}: expected a share above 0, up to 0.5, or null for never")


@dataclass(frozen=True)
class Demo:
    """Where the page of `metalab demo` is."""

    host: str  # the address it listens on
    port: int | None  # None: the first free one
    open: bool  # the browser is opened

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UserError(f"demo.port={self.port}: expected 1 to 65535, or null for the first one that is free")


@dataclass(frozen=True)
class Eval:
    """How many episodes are evaluated, on which split and how they are normalized."""

    episodes: int
    bn: BN | None
    split: Literal["train", "val", "test"]
    allow_overlap: bool
    batch: int
    eps: list[float] | None = None
    embed: bool | None = None
    unknown: int | None = None
    folds: int | None = None
    report: bool = True
    temperature: Literal["fit"] | float | None = None

    def __post_init__(self) -> None:
        check_minimum("eval", self, {"episodes": 2, "batch": 1, "unknown": 1, "folds": 2})
        if isinstance(self.temperature, float) and not 0 < self.temperature < math.inf:
            raise UserError(f"eval.temperature={self.temperature:g}: expected a number above 0, fit, or null for none")
