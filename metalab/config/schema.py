"""The groups `task`, `train` and `eval` of a configuration, as checked dataclasses."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from metalab.config.validate import check_minimum
from metalab.core.errors import UserError

BN = Literal["batch", "support", "one", "running", "target"]


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
    query_balance: Literal["dirichlet"] | None = None
    dirichlet: float = 2.0
    query_domain: str | None = None
    shots: list[int] | None = None
    label_noise: float = 0.0
    train_label_noise: float = 0.0
    draws: int | None = None

    @property
    def labelled(self) -> int:
        """How many labelled images an episode of validation and test has; where they are drawn, about as many."""
        return self.way * self.shot if self.shots is None else sum(self.shots)

    @property
    def shot_words(self) -> str:
        """What people are shown before "-shot"."""
        return f"{self.shot}" if self.shots is None else ",".join(map(str, self.shots))

    @property
    def fixed(self) -> bool:
        """Whether every episode has this way and these shots; else they are the most that are drawn."""
        return self.support is None

    def __post_init__(self) -> None:
        least = {"way": 2, "shot": 1, "query": 1, "train_way": 2, "train_shot": 1, "train_query": 1}
        least |= {"unlabelled": 0, "distractors": 0, "support": 5, "draws": 2}
        check_minimum("task", self, least)
        self._check_draws()
        self._check_shots()
        self._check_noise()
        if not self.fixed and (self.unlabelled or self.distractors):
            raise UserError(
                f"task.unlabelled={self.unlabelled} task.distractors={self.distractors}: task=variable has none; "
                "type 0 for both, or task=fixed"
            )
        if not 0 < self.dirichlet < math.inf:
            raise UserError(f"task.dirichlet={self.dirichlet:g}: expected a number above 0")
        if not self.fixed and self.query_balance is not None:
            raise UserError(
                f"task.query_balance={self.query_balance}: task=variable draws its own sizes; type task=fixed"
            )
        if self.query_domain is not None and (not self.fixed or self.unlabelled or self.distractors):
            raise UserError(
                f"task.query_domain={self.query_domain}: episodes across domains are of one size and have no "
                "unlabelled images; type task=fixed task.unlabelled=0 task.distractors=0"
            )

    @property
    def beside_fixed(self) -> tuple[str, str] | None:
        """What was typed that episodes of some classes alone have, `task.key=value`, and what is typed for none."""
        unset = {"support": None, "shots": None, "query_balance": None, "query_domain": None}
        unset |= {"unlabelled": 0, "distractors": 0, "label_noise": 0.0}
        for key, none in unset.items():
            if getattr(self, key) != none:
                return f"task.{key}={getattr(self, key)}", f"task.{key}={'null' if none is None else '0'}"
        return None

    def _check_draws(self) -> None:
        asked = self.beside_fixed
        if self.draws is not None and asked is not None:
            raise UserError(
                f"{asked[0]}: task=all_way has task.shot labelled images of each class and all others as queries; type "
                f"{asked[1]}, or task=fixed"
            )

    def _check_shots(self) -> None:
        if self.shots is None:
            return
        if not self.fixed:
            raise UserError(f"task.shots={self.shots}: task=variable draws the shots of each class; type task=fixed")
        if len(self.shots) != self.way or min(self.shots, default=0) < 1:
            raise UserError(
                f"task.shots={self.shots}: expected task.way={self.way} numbers of 1 or more, one a class, as in "
                f"task.shots=[{','.join(map(str, range(1, self.way + 1)))}]"
            )
        if self.label_noise:
            raise UserError(
                f"task.label_noise={self.label_noise:g} with task.shots={self.shots}: wrong labels are swapped between "
                "classes of as many images; type task.shots=null, or task.label_noise=0"
            )

    def _check_noise(self) -> None:
        for key, noise in (("label_noise", self.label_noise), ("train_label_noise", self.train_label_noise)):
            if not 0 <= noise < 1:
                raise UserError(
                    f"task.{key}={noise:g}: expected the share of wrong labels, from 0 up to but not including 1"
                )
            if noise and not self.fixed:
                raise UserError(f"task.{key}={noise:g}: task=variable has true labels alone; type task=fixed")
        wrong_labels(self.shot, self.label_noise, "label_noise", "shot")


def wrong_labels(shot: int, noise: float, key: str, size: str) -> int:
    """Return how many of the support images of a class have another class's label.

    Args:
        shot: images of each class.
        noise: the share of them.
        key: of the share, as people type it behind task.
        size: that of the shots.

    Raises:
        UserError: where the share is no whole number of images.
    """
    wrong = round(noise * shot)
    if abs(wrong - noise * shot) > 1e-6:
        some = [f"{i / shot:g}" for i in range(shot)]
        fits = " or ".join([", ".join(some[:-1]), some[-1]] if len(some) > 1 else some)
        raise UserError(
            f"task.{key}={noise:g} of {shot} image{'s' * (shot > 1)} is no whole number of images a class: type "
            f"task.{key}={fits}, or another task.{size}"
        )
    return wrong


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
    generations: int = 1
    bootstrap: Literal["images", "classes"] | bool | None = None
    boost: list[str] | None = None
    snapshots: int | None = None
    keep_best: int = 1
    phases: list[dict[str, Any]] | None = None
    cycles: int = 1
    keep_classes: bool = False
    prune_after: int | None = None
    prune_warmup: int = 0

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "meta_batch": 1,
            "val_every": 1,
            "val_episodes": 2,
            "patience": 1,
            "log_every": 1,
            "workers": 0,
            "generations": 1,
            "snapshots": 2,
            "keep_best": 1,
            "cycles": 1,
            "prune_after": 2,
            "prune_warmup": 0,
        }
        check_minimum("train", self, least)
        self._refuse_pairs()
        if self.cycles > 1 and self.phases is None:
            raise UserError(f"train.cycles={self.cycles} repeats train.phases, and there are none: type train.cycles=1")
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"train.minutes={self.minutes:g}: expected more than 0, or null for no limit")
        if self.weights is not None and self.init is not None:
            raise UserError(
                f"train.weights={self.weights} with train.init={self.init}: the weights come from one of them"
            )

    def _refuse_pairs(self) -> None:
        """Raise UserError for two settings of an ensemble's members that exclude each other."""
        if self.boost is not None and not self.boost:
            raise UserError("train.boost=[]: expected the earlier runs, as train.boost=[RUN,RUN], or null")
        if self.boost and self.bootstrap:
            raise UserError("train.boost draws by earlier runs' errors and train.bootstrap by chance: leave out one")
        if self.snapshots is not None and self.keep_best > 1:
            raise UserError(
                f"train.snapshots={self.snapshots} with train.keep_best={self.keep_best}: a run keeps one set of "
                "checkpoints for an ensemble, leave out one"
            )


@dataclass(frozen=True)
class Compare:
    """How runs are compared."""

    data: list[str] | None  # what each is tested on; None: its own, or the command line's
    alpha: float  # level of the tests
    pictures: int  # episodes of the largest disagreement that are shown

    def __post_init__(self) -> None:
        check_minimum("compare", self, {"pictures": 0})
        if not 0 < self.alpha < 1:
            raise UserError(f"compare.alpha={self.alpha:g}: expected a level above 0 and below 1, as 0.05")
        if self.pictures > 100:
            raise UserError(f"compare.pictures={self.pictures}: expected 0..100, for all of them are in one file")


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


EPISODES_AT_ONCE = 8  # of an evaluation, where nobody says another


@dataclass(frozen=True)
class Eval:
    """How many episodes are evaluated, on which split and how they are normalized."""

    episodes: int
    bn: BN | None
    split: Literal["train", "val", "test"]
    allow_overlap: bool
    batch: int | None
    eps: list[float] | None = None
    embed: bool | None = None
    unknown: int | None = None
    folds: int | None = None
    report: bool = True
    temperature: Literal["fit"] | float | None = None
    baseline: str | None = None
    tent: int | None = None
    corrupt: str | list[str] | None = None
    severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    corrupt_on: Literal["query", "support", "both"] = "query"

    def __post_init__(self) -> None:
        check_minimum("eval", self, {"episodes": 2, "batch": 1, "unknown": 1, "folds": 2, "tent": 1})
        if isinstance(self.temperature, float) and not 0 < self.temperature < math.inf:
            raise UserError(f"eval.temperature={self.temperature:g}: expected a number above 0, fit, or null for none")
