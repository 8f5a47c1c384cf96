"""The memory of reg=replay: filled when a phase has ended, a file in its folder, read by the phases behind it."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metalab.config.experiment import ExperimentConfig
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.identity.class_ids import fingerprint, training_ids
from metalab.data.sampling.class_order import Labels, relabelled
from metalab.data.sampling.exemplars import herded, reservoir
from metalab.data.sampling.seeded import generator
from metalab.data.storage.resize import resize_split
from metalab.evaluation.setup import load_net
from metalab.models.layers import running_statistics
from metalab.tracking import checkpoint, checkpoint_schema
from metalab.training.setup import TrainingSetup
from metalab.training.warm_start import refuse_leaked

logger = logging.getLogger("metalab")
FILE = "memory.pt"
IMAGES = 200  # whose features are computed together


@dataclass(frozen=True)
class Memory:
    """Remembered images of classes, and what they were chosen from."""

    split: Split  # the images of a class in the order in which they were chosen
    seen: int  # images, or classes, that were chosen from
    trainings: list[str]  # fingerprints of the data that were chosen from: each counts once


def remembered(
    before: Memory | None, r: TrainingSetup, net: nn.Module, images: int | None, how: str, a_class: int | None
) -> Memory:
    """Return the memory after a training, from the one before and the training's images.

    Of data that split images: herding gives each class so far images / classes of them (iCaRL, algorithms 4 and 5: what
    was chosen before is cut to its first ones), reservoir keeps each image so far with the same chance. Of data that
    split classes: each class so far is kept with the same chance, with as many images as an episode needs.

    Args:
        before: None: this is the first training.
        r: what the training was made of.
        net: at its end.
        images: that the memory holds; None: all.
        how: herding or reservoir, of the images.
        a_class: images of a class that an episode needs; None: the data split images.
    """
    train = only_present(r.data["train"])
    known = [] if before is None else before.trainings
    if (this := fingerprint(train)) in known and before is not None:
        return before
    numbers = generator(r.seed, "replay", f"{len(known)}")
    seen = 0 if before is None else before.seen
    old, trainings = None if before is None else before.split, [*known, this]
    if a_class is None and how == "reservoir" and images is not None:
        came = int(train.count.sum())
        return Memory(_sampled(old, train, reservoir(seen, came, images, numbers)), seen + came, trainings)
    if a_class is None:
        classes = len({*(old.ids if old else []), *train.ids})
        quota = None if images is None else images // classes
        kept = old and _chosen(old, [torch.arange(n)[:quota] for n in old.count.tolist()])
        return Memory(_together(kept, _chosen(train, _best(r, net, train, quota, how, numbers))), classes, trainings)
    came, wanted = len(train.ids), None if images is None else a_class
    held = torch.arange(came) if images is None else reservoir(seen, came, images // a_class, numbers)
    new = _some_classes(train, held[held >= 0].unique())
    stay = old
    if old is not None and images is not None:
        stay = _some_classes(old, torch.arange(len(old.ids))[held[: len(old.ids)] < 0])
    return Memory(_together(stay, _chosen(new, _best(r, net, new, wanted, how, numbers))), seen + came, trainings)


def only_present(split: Split) -> Split:
    """Return the split without the classes that have no images."""
    return _some_classes(split, split.count.nonzero()[:, 0])


def save(path: Path, memory: Memory) -> None:
    """Write a memory to a file, all of it or nothing."""
    split = memory.split
    held = {name: getattr(split, name) for name in ("images", "first", "count", "ids", "names", "files", "image_ids")}
    held |= {"turns": split.turns, "random_turns": split.random_turns, "by_image": split.by_image}
    checkpoint.save(path, {"split": held, "seen": memory.seen, "trainings": memory.trainings})


def load(path: Path) -> Memory:
    """Read a memory; UserError where the file is none."""
    held: Mapping[str, Any] = checkpoint.load(path)
    try:
        return Memory(Split(**held["split"]), held["seen"], held["trainings"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no memory of reg=replay: give memory.pt of an earlier phase's folder") from error


def for_training(r: TrainingSetup) -> Split | None:
    """Return the remembered images as this training takes them: its classes' places, its images' size; None: none.

    Raises:
        UserError: where there is no such file, or it holds images of classes that this classifier does not have, or
            what this training is validated on.
    """
    if r.terms.replay is None:
        return None
    if r.terms.replay.memory is None:
        logger.info("reg.replay: there is no memory of an earlier phase, and nothing is drawn from it")
        return None
    split, train = load(Path(r.terms.replay.memory)).split, r.data["train"]
    if split.protocol != train.protocol:
        raise UserError(
            f"reg.replay.memory={r.terms.replay.memory}: one of it and this data splits images, one classes"
        )
    channels, size, _ = train.images.shape[1:]
    split = resize_split(split, channels, size, "as this phase's images")
    refuse_leaked(r.data["val"], training_ids(split), f"reg.replay.memory={r.terms.replay.memory}")
    if train.by_image:
        if other := sorted(set(split.ids) - set(train.ids)):
            raise UserError(
                f"reg.replay.memory={r.terms.replay.memory} has images of {other[0]}, of which this classifier knows "
                "nothing: begin with the run that was trained on them, train.init=RUN train.keep_classes=true"
            )
        return relabelled(split, Labels(train.ids, train.names))
    needed = a_class_of(r)
    return _some_classes(split, (split.count >= needed).nonzero()[:, 0])


def facts(r: TrainingSetup) -> dict[str, str]:
    """Return the hash of the remembered images that a checkpoint keeps; nothing where there are none."""
    return {} if r.memory is None else {"memory": fingerprint(r.memory)}


def refuse_other_memory(r: TrainingSetup, saved: Mapping[str, str]) -> None:
    """Raise UserError where a resumed run would go on with other remembered images than it began with."""
    now = facts(r)
    if r.terms.replay is not None and saved.get("memory", now.get("memory")) != now.get("memory"):
        raise UserError(
            f"reg.replay.memory={r.terms.replay.memory}: its images are not those that the run began with; give the "
            "file as it was, or start a new run"
        )


def a_class_of(r: TrainingSetup) -> int:
    """Return how many images of a class a training episode needs."""
    t = r.task
    return (t.train_shot or t.shot) + (t.train_query or t.query) + t.unlabelled


def net_after(config: ExperimentConfig, r: TrainingSetup, folder: Path) -> nn.Module:
    """Return the net of a run's best checkpoint, which the next phase begins with."""
    return load_net(config, r.backbone, checkpoint_schema.load_checked(folder / "best.pt")).to(r.device).eval()


def _best(
    r: TrainingSetup, net: nn.Module, split: Split, quota: int | None, how: str, numbers: torch.Generator
) -> list[Tensor]:
    """Return, for each class, the places among its images of those that are kept, the best first."""
    if quota is None:
        return [torch.arange(n) for n in split.count.tolist()]
    if how == "reservoir":
        return [torch.randperm(n, generator=numbers)[:quota] for n in split.count.tolist()]
    found = []
    for first, count in zip(split.first.tolist(), split.count.tolist(), strict=True):
        found.append(herded(_features(net, split.images[first : first + count], r), quota))
    return found


@torch.no_grad()
def _features(net: nn.Module, images: Tensor, r: TrainingSetup) -> Tensor:
    """Return float [N,D], the features of uint8 images."""
    with running_statistics() if r.bn == "running" else nullcontext():
        parts = [net("features", x.to(r.device).float() / 255).flatten(1).cpu() for x in images.split(IMAGES)]
    return torch.cat(parts)


def _sampled(old: Split | None, train: Split, held: Tensor) -> Split:
    """Return a sample, from the one before and which of the training's images take which of its places."""
    places = 0 if old is None else len(old.images)
    stay = torch.arange(places)[held[:places] < 0]
    mine = held[held >= 0].sort().values
    return _together(None if old is None else _with_items(old, stay), _with_items(train, mine))


def _with_items(split: Split, item: Tensor) -> Split:
    """Return the split with these of its images, by their number when those of its classes are counted in turn."""
    ends = split.count.cumsum(0)
    k = torch.searchsorted(ends, item, right=True)
    inside = item - (ends - split.count)[k]
    return only_present(_chosen(split, [inside[k == each] for each in range(len(split.ids))]))


def _chosen(split: Split, inside: list[Tensor]) -> Split:
    """Return a split of its own with these images of each class, by their places in it."""
    index = torch.cat([first + own for first, own in zip(split.first.tolist(), inside, strict=True)])
    count = torch.tensor([len(own) for own in inside])
    listed = index.tolist()
    return replace(
        split,
        images=split.images[index].cpu(),
        first=count.cumsum(0) - count,
        count=count,
        files=[split.files[i] for i in listed] if split.files else [],
        image_ids=[split.image_ids[i] for i in listed] if split.image_ids else [],
        families=None,
        class_sizes={},
    )


def _some_classes(split: Split, kept: Tensor) -> Split:
    """Return the split with these of its classes."""
    listed = kept.tolist()
    return replace(
        split,
        first=split.first[kept],
        count=split.count[kept],
        ids=[split.ids[k] for k in listed],
        names=[split.names[k] for k in listed],
        turns=None if split.turns is None else split.turns[kept],
        families=None,
    )


def _together(old: Split | None, new: Split) -> Split:
    """Return both splits' images; a class that stands in both has those of the old one first."""
    if old is None or not old.ids:
        return _chosen(new, [torch.arange(n) for n in new.count.tolist()])
    channels, size, _ = new.images.shape[1:]
    old = resize_split(old, channels, size, "as this phase's images")
    turned = old.turns is not None or new.turns is not None
    both = Split(
        images=torch.cat([old.images, new.images]),
        first=torch.cat([old.first, new.first + len(old.images)]),
        count=torch.cat([old.count, new.count]),
        ids=[*old.ids, *new.ids],
        names=[*old.names, *new.names],
        files=[*_or_blank(old.files, old), *_or_blank(new.files, new)],
        image_ids=[*_or_blank(old.image_ids, old), *_or_blank(new.image_ids, new)],
        turns=torch.cat([_turns(old), _turns(new)]) if turned else None,
        random_turns=old.random_turns or new.random_turns,
        by_image=new.by_image,
    )
    return _merged(both) if new.by_image else _chosen(both, [torch.arange(n) for n in both.count.tolist()])


def _merged(both: Split) -> Split:
    """Return the split with the images of classes of one id put together."""
    place = {class_id: k for k, class_id in enumerate(dict.fromkeys(both.ids))}
    rows: list[list[Tensor]] = [[] for _ in place]
    for class_id, first, count in zip(both.ids, both.first.tolist(), both.count.tolist(), strict=True):
        rows[place[class_id]].append(torch.arange(first, first + count))
    names = dict(zip(both.ids, both.names, strict=True))
    whole = replace(
        both,
        first=torch.zeros(len(place), dtype=torch.int64),
        count=torch.tensor([sum(map(len, own)) for own in rows]),
        ids=list(place),
        names=[names[class_id] for class_id in place],
        turns=None,
    )
    return _chosen(whole, [torch.cat(own) for own in rows])


def _or_blank(listed: list[str], split: Split) -> list[str]:
    return listed or [""] * len(split.images)


def _turns(split: Split) -> Tensor:
    return torch.zeros_like(split.first) if split.turns is None else split.turns
