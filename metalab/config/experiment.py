"""A whole configuration, read once: what lies below train.run and evaluate.run knows no OmegaConf."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metalab.config.instantiate import plain_group, settings
from metalab.config.root_checks import validate_root
from metalab.config.schema import Eval, Task, Train

GROUPS = ("algo", "backbone", "data", "reg", "attack", "engine", "optim")


@dataclass(frozen=True)
class ExperimentConfig:
    """The settings of one training or evaluation, as plain values.

    A group that names a class by `_target_` is a dictionary, from which config.instantiate.build makes the object;
    `task` and `eval` are made already, `train` where it is first asked for, as an evaluation does without.
    """

    whole: dict[str, Any]  # all of it, as config.yaml and checkpoints keep it
    task: Task
    eval: Eval
    seed: int
    device: str  # auto, cpu, cuda or cuda:N
    resume: Path | None  # the folder of the run that goes on
    run: Any  # what an evaluation was asked to evaluate
    algo: dict[str, Any]
    backbone: dict[str, Any]
    data: dict[str, Any]
    reg: dict[str, Any]
    attack: dict[str, Any]
    engine: dict[str, Any]
    optim: dict[str, Any]

    @cached_property
    def train(self) -> Train:
        """How long to train, and what to keep; UserError for a setting that does not exist or fit."""
        return settings(Train, self.whole.get("train", {}), "train")


def read_config(cfg: DictConfig, also: tuple[str, ...] = ()) -> ExperimentConfig:
    """Check the root, the task and the evaluation of Hydra's configuration, and return all of it as plain values.

    Args:
        cfg: the configuration.
        also: keys at its root that the command has beside those of every command.

    Raises:
        UserError: for a key that does not exist, a value of another type, or one that cannot be resolved.
    """
    validate_root(cfg, also)
    whole: dict[str, Any] = {}
    for key in map(str, cfg):
        whole |= plain_group(OmegaConf.masked_copy(cfg, key), key)
    groups = {name: plain_group(whole.get(name, {}), name) for name in GROUPS}
    return ExperimentConfig(
        whole=whole,
        task=settings(Task, cfg.task, "task"),
        eval=settings(Eval, cfg.eval, "eval"),
        seed=whole["seed"],
        device=whole["device"],
        resume=None if whole.get("resume") is None else Path(str(whole["resume"])),
        run=whole.get("run"),
        **groups,
    )
