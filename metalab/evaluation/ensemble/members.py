"""The members of an ensemble: which checkpoints they are, and whether they can see the same episodes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from metalab.config.experiment import ExperimentConfig
from metalab.config.schema import EPISODES_AT_ONCE
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.data.identity.class_ids import fingerprint
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup

TASK = ("way", "shot", "query", "unlabelled", "distractors", "support")  # of what is tested
TASK += ("query_balance", "dirichlet", "query_domain", "shots", "label_noise", "draws")


@dataclass(frozen=True)
class Member:
    """A checkpoint of a run, and the run's settings under the words of the command line."""

    folder: Path
    checkpoint: str  # its file in the folder
    config: ExperimentConfig

    @property
    def path(self) -> str:
        return str(self.folder / self.checkpoint)


def checkpoints_of(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the folder and the file of each member: of several runs their best.pt, of one its snapshots or its best.

    Raises:
        UserError: for one run that has one checkpoint alone.
    """
    if len(folders) > 1:
        return [(folder, "best.pt") for folder in folders]
    [folder] = folders
    for pattern in (r"snapshot(\d+)\.pt", r"best(\d*)\.pt"):
        names = [match for path in folder.glob("*.pt") if (match := re.fullmatch(pattern, path.name))]
        found = [(int(match[1] or 1), match[0]) for match in names]
        if len(found) > 1:
            return [(folder, name) for _, name in sorted(found)]
    raise UserError(
        f"run={folder} is one net, and an ensemble needs several: type run=[{folder},ANOTHER], or train with "
        "train.snapshots=5 or train.keep_best=5, which keep several checkpoints of one run"
    )


def members_of(runs: Sequence[tuple[Path | None, ExperimentConfig]]) -> list[Member]:
    """Return the members that runs make, in their order; UserError where they are not several trained nets."""
    configs = {folder: config for folder, config in runs if folder is not None}
    if not configs:
        raise UserError("ensemble: run=null is a single net that was not trained; give trained runs, run=[A,B]")
    return [Member(folder, name, configs[folder]) for folder, name in checkpoints_of(list(configs))]


def build_members(members: Sequence[Member], how: str) -> list[EvaluationSetup]:
    """Return what evaluates each member, before any of it is measured.

    Raises:
        UserError: as build_evaluation_setup, and where the members cannot see the same episodes, by the first that
            differs from the first member.
    """
    first = members[0]
    refuse_unsupported(first.config, how)
    for member in members[1:]:
        _refuse_other_settings(first, member)
    batch = first.config.eval.batch or EPISODES_AT_ONCE  # which changes no episode
    made = [
        build_evaluation_setup(m.folder, replace(m.config, eval=replace(m.config.eval, batch=batch)), m.checkpoint)
        for m in members
    ]
    for member, t in zip(members[1:], made[1:], strict=True):
        refuse_other_episodes(first, made[0], member, t)
    return made


def refuse_unsupported(config: ExperimentConfig, how: str) -> None:
    """Raise UserError for what is measured of single nets alone."""
    asked = {
        "attack": [name for name, part in config.attack.items() if isinstance(part, Mapping)] or None,
        "task.draws": config.task.draws,
        "eval.unknown": config.eval.unknown,
        "eval.temperature": config.eval.temperature,
        "eval.baseline": config.eval.baseline,
        "eval.corrupt": config.eval.corrupt,
    }
    for key, value in asked.items():
        if value is not None:
            raise UserError(
                f"{key}={format_value(value)} with ensemble={how}: that is measured of single nets: leave out one of "
                "the two"
            )


def _refuse_other_settings(first: Member, other: Member) -> None:
    """Raise UserError where two members' settings give other episodes."""
    for group, keys in (("task", TASK), ("eval", ("split", "episodes"))):
        ours, theirs = asdict(getattr(first.config, group)), asdict(getattr(other.config, group))
        plain = first.config.data.get("protocol") == "images"  # its sizes are of no episode
        for key in () if plain and group == "task" else keys:
            unread = (plain and key == "episodes") or (key == "dirichlet" and ours["query_balance"] is None)
            if unread or ours[key] == theirs[key]:
                continue
            raise UserError(
                f"an ensemble sees the same episodes: {group}.{key} is {format_value(theirs[key])} in {other.folder} "
                f"and {format_value(ours[key])} in {first.folder}; type it for all, as {group}.{key}="
                f"{format_value(ours[key])}"
            )


def refuse_other_episodes(first: Member, ours: EvaluationSetup, other: Member, theirs: EvaluationSetup) -> None:
    """Raise UserError where two members' data, or the episodes drawn of it, are not the same."""
    both = f"of {other.folder} and of {first.folder}"
    if ours.split.ids != theirs.split.ids:
        plain = not (ours.protocol.has_support or theirs.protocol.has_support)
        what = "classifies other classes" if plain else "is tested on others"
        raise UserError(
            f"an ensemble sees the same classes, and {other.folder} {what}: {_some(theirs.split.ids)}, and "
            f"{first.folder} has {_some(ours.split.ids)}; give runs of one data set, or type data=... for all of them"
        )
    if ours.protocol != theirs.protocol or fingerprint(ours.split) != fingerprint(theirs.split):
        raise UserError(
            f"an ensemble sees the same images, and the {ours.evaluation.split} images {both} are not the same: give "
            "runs with the same data.root, data.seed and data.protocol, or type data=... for all of them"
        )
    drawn = [t.source(t.task).indices(0) for t in (ours, theirs)]
    if not all(a.shape == b.shape and a.equal(b) for a, b in zip(*drawn, strict=True)):
        raise UserError(
            f"an ensemble sees the same episodes, and those {both} are drawn in different ways: their settings of "
            "data differ; type data=... for all of them"
        )


def _some(ids: list[str]) -> str:
    return f"{len(ids)} classes ({', '.join(ids[:2])}, ...)"
