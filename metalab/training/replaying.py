"""reg=replay in a training of phases: what the memory of each must hold, and when it is written."""

from collections.abc import Sequence
from pathlib import Path

from metalab.config.experiment import ExperimentConfig
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.data.identity.class_ids import fingerprint
from metalab.regularizers.base import Remembered
from metalab.tracking.run_folder import phase_folder
from metalab.training import memory
from metalab.training.setup import TrainingSetup


def check(setups: Sequence[TrainingSetup]) -> None:
    """Raise UserError where the memory of a phase that replays cannot hold what is drawn from it."""
    _refuse_other_memories([r.terms.replay for r in setups[1:] if r.terms.replay is not None])
    for k, r in enumerate(setups):
        replay = r.terms.replay
        if replay is None or not k:
            continue
        before = setups[:k]
        kinds = {each.data["train"].protocol for each in (*before, r)}
        if len(kinds) > 1:
            raise UserError(
                f"train.phases[{k}].reg.replay: some phases split images and some classes, and a memory is of one "
                "kind: leave replay out of reg, or give all phases one protocol"
            )
        if drawn := [j for j, each in enumerate(before) if each.train.bootstrap]:
            raise UserError(
                f"train.phases[{k}].reg.replay: phase {drawn[0]} trains on a part of its images, by train.bootstrap, "
                "and the memory is chosen from all of them: leave out one of the two"
            )
        if not r.data["train"].by_image:
            _check_classes(k, [*before, r])
        if replay.images is not None:
            _check_size(replay.images, k, [*before, r])


def _refuse_other_memories(replays: Sequence[Remembered]) -> None:
    """Raise UserError where phases ask for memories of other kinds: each is made of the one before it."""
    for key in ("images", "how"):
        if len(asked := list(dict.fromkeys(getattr(each, key) for each in replays))) > 1:
            raise UserError(
                f"train.phases: reg.replay.{key} is {' and '.join(map(format_value, asked))}, and there is one memory, "
                f"which each phase hands on: give reg.replay.{key} the same value in all phases"
            )


def _check_classes(k: int, setups: Sequence[TrainingSetup]) -> None:
    """Raise UserError where the phases before have fewer classes of enough images than an episode."""
    *before, r = setups
    needed, way = memory.a_class_of(r), (r.task.train_way or r.task.way) + r.task.distractors
    trained = {fingerprint(each.data["train"]): each.data["train"] for each in before}  # of the same data once
    there = sum(int((split.count >= needed).sum()) for split in trained.values())
    if there < way:
        raise UserError(
            f"train.phases[{k}].reg.replay: an episode has {way} classes, and the phases before have {there} of "
            f"{needed} images or more: type a smaller task.train_way"
        )


def _check_size(images: int, k: int, setups: Sequence[TrainingSetup]) -> None:
    """Raise UserError where a memory of so many images has no room for what is drawn of it."""
    *before, r = setups
    if r.data["train"].by_image:
        least, what = len(before[-1].data["train"].ids), "one image of each class so far"
    else:
        way, each = (r.task.train_way or r.task.way) + r.task.distractors, _a_class(setups)
        least, what = way * each, f"{each} images of each of the {way} classes of an episode"
    if images < least:
        raise UserError(
            f"train.phases[{k}].reg.replay.images={images}: the memory needs {least} or more, {what}: type "
            f"reg.replay.images={least}"
        )


def _a_class(setups: Sequence[TrainingSetup]) -> int:
    """Return how many images of a class any phase's training episodes need."""
    return max([memory.a_class_of(r) for r in setups if r.algo.mini_batch is None], default=1)


def remember(configs: Sequence[ExperimentConfig], setups: Sequence[TrainingSetup], out: Path, k: int) -> None:
    """Write the memory after phase k into its folder where a later phase replays, and it is not there yet."""
    path = phase_folder(out, k) / memory.FILE
    replay = next((r.terms.replay for r in setups[k + 1 :] if r.terms.replay is not None), None)
    if replay is None or path.is_file():
        return
    before = memory.load(phase_folder(out, k - 1) / memory.FILE) if k else None
    r = setups[k]
    net = memory.net_after(configs[k], r, phase_folder(out, k))
    needed = None if r.data["train"].by_image else _a_class(setups)
    memory.save(path, memory.remembered(before, r, net, replay.images, replay.how, needed))
