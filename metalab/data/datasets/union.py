"""Several data sets at once: each episode is of one of them (as in Meta-Dataset, Triantafillou et al. 2020)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.core.interfaces import ClassFamilies, Data, Split
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.folder import Folder
from metalab.data.identity.class_ids import seen_classes, training_ids
from metalab.data.sampling.class_families import build_families
from metalab.data.storage.resize import resize_split

FORM = "+data@data.members.omniglot=omniglot +data@data.members.glyphs=glyphs"


@dataclass(frozen=True)
class Union:
    """Join data sets, their images made [channels,size,size] and held in memory.

    An episode is of member m with the share weights[m], 1 where it is not named, beside the others. A class that
    stands in one member's training split and in another's validation split is an error.
    """

    members: dict[str, Any]
    weights: dict[str, float]
    size: int
    channels: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 512:
            raise UserError(f"data.size={self.size}: expected 1 to 512 pixels; type data.size=84")
        if self.channels not in (1, 3):
            raise UserError(f"data.channels={self.channels}: expected 1 (grey) or 3 (RGB); type data.channels=3")
        for name, weight in self.weights.items():
            if name not in self.members or not weight > 0:
                named = ", ".join(self.members) or "none"
                raise UserError(
                    f"data.weights.{name}={weight:g}: expected a number above 0 for a member, here: {named}"
                )

    def load(self, split: str) -> Split:
        """Return the train, val or test classes of all members; UserError where one has none, or they overlap."""
        parts = self._parts(split, lambda data, split: data.load(split))
        if split == "val":
            self._refuse_shared(parts)
        return self._joined(parts)

    def unrefused(self, split: str) -> Split:
        """Return the split with whatever it shares with another one, for a report; `load` refuses that."""
        return self._joined(self._parts(split, _unrefused))

    def unreadable(self, split: str) -> list[str]:
        """Return the files of the split that cannot be read, of the members that leave them out."""
        found = {name: data.unreadable(split) for name, data in self._data.items() if isinstance(data, Folder | Union)}
        return [f"{name}/{file}" for name, files in found.items() for file in files]

    @property
    def excused(self) -> tuple[str, ...]:
        """What the names of classes begin with that may have one name in two splits."""
        inside = {name: data.excused for name, data in self._data.items() if isinstance(data, Folder | Union)}
        return tuple(f"{name}/{each}" for name, all_ in inside.items() for each in all_)

    def _parts(self, split: str, load: Callable[[Data, str], Split]) -> dict[str, Split]:
        if len(self.members) < 2:
            raise UserError(f"data=union has {len(self.members)} members, 2 or more are expected: type {FORM}")
        parts = {name: load(data, split) for name, data in self._data.items()}
        for name, part in parts.items():
            _check(name, part)
        return parts

    def _joined(self, parts: dict[str, Split]) -> Split:
        why = "as the union's other images"
        fitted = {name: resize_split(part, self.channels, self.size, why) for name, part in parts.items()}
        return _joined(fitted, self.weights)

    @cached_property
    def _data(self) -> dict[str, Data]:
        return {name: build(node, f"data.members.{name}") for name, node in self.members.items()}

    def _refuse_shared(self, val: dict[str, Split]) -> None:
        for trained, data in self._data.items():
            trained_on = training_ids(data.load("train"))
            for name, part in val.items():
                if shared := seen_classes(part, trained_on):
                    raise UserError(
                        f"{len(shared)} validation classes of {name} stand in the training split of {trained}, "
                        f"{shared[0]} the first: they cannot be members of one union; leave out {name} or {trained}"
                    )


def _unrefused(data: Data, split: str) -> Split:
    return data.unrefused(split) if isinstance(data, Folder | Union) else data.load(split)


def _check(name: str, part: Split) -> None:
    """Raise UserError for what only a data set of its own can have."""
    if part.fixed is not None:
        raise UserError(f"{name} has episodes of its own and cannot be a member of a union: leave it out")
    if part.by_image:
        raise UserError(
            f"{name} splits images and not classes, and gives no episodes: type data.members.{name}.protocol=classes"
        )
    if part.random_turns:
        raise UserError(
            f"{name} turns its images at random, which the others do not: give data.members.{name} another protocol"
        )
    if part.group is not None:
        raise UserError(f"data.members.{name}.group: a union does not group its images; type null")


def _joined(parts: dict[str, Split], weights: dict[str, float]) -> Split:
    splits = list(parts.values())
    starts = torch.tensor([0, *(len(part.images) for part in splits[:-1])]).cumsum(0).tolist()
    notes = [f"{name}: {part.note}" for name, part in parts.items() if part.note]
    turned = any(part.turns is not None for part in splits)
    return Split(
        images=torch.cat([part.images for part in splits]),
        first=torch.cat([part.first + start for part, start in zip(splits, starts, strict=True)]),
        count=torch.cat([part.count for part in splits]),
        ids=[class_id for part in splits for class_id in part.ids],
        names=[f"{name}/{each}" for name, part in parts.items() for each in part.names],
        files=[f"{name}/{file}" for name, part in parts.items() for file in part.files or [""] * len(part.images)],
        image_ids=[image for part in splits for image in part.image_ids or [""] * len(part.images)],
        turns=torch.cat([_turns(part) for part in splits]) if turned else None,
        families=_families(parts, weights),
        note="; ".join(notes),
        class_sizes={split: _class_sizes(parts, split) for split in SPLITS},
    )


def _class_sizes(parts: dict[str, Split], split: str) -> dict[str, int]:
    """Return the images of each class of a split, of those members that know them of all their splits."""
    return {f"{name}/{k}": n for name, part in parts.items() for k, n in part.class_sizes.get(split, {}).items()}


def _turns(part: Split) -> Tensor:
    return torch.zeros_like(part.first) if part.turns is None else part.turns


def _families(parts: dict[str, Split], weights: dict[str, float]) -> ClassFamilies:
    """Return the families of all: a member's own, else the whole member is one; each member has its weight."""
    families, names, sources, shares = [], [], [], []
    for name, part in parts.items():
        own = (
            part.families if part.families is not None else build_families(part.names, name, lambda _, name=name: name)
        )
        families.append(own.family + len(names))
        names += own.names
        sources += [name] * len(own.names)
        shares.append(own.weight * (weights.get(name, 1.0) / own.weight.sum()))
    return ClassFamilies(torch.cat(families), names, sources, torch.cat(shares))
