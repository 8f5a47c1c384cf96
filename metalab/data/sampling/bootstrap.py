"""Bagging (Breiman 1996): training classes, or the images within each, drawn with replacement by the seed."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Resampling, Split
from metalab.data.sampling.class_order import aliases_at
from metalab.data.sampling.seeded import generator

Bootstrap = Literal["images", "classes"]


def bootstrapped(split: Split, kind: Bootstrap, mini_batches: bool, seed: int) -> Split:
    """Return a training split drawn with replacement from itself; what was not drawn leaves no id on the record.

    classes: as many as there are; a class drawn twice is one class, which episodes (or mini-batches) draw twice as
    often: as two it would give the same images two labels. images: within each class as many as it has; for
    mini-batches an image drawn twice counts twice, for episodes once, as a support and its queries share no image:
    about 63 % of each class are left.

    Args:
        split: with its images by class.
        kind: what is drawn.
        mini_batches: whether training draws mini-batches, and no episodes.
        seed: of the draw.

    Raises:
        UserError: for the classes of a plain classifier, all of which it must know.
    """
    drawn = generator(seed, "train", f"bootstrap/{kind}")
    if kind == "classes":
        if split.by_image:
            raise UserError(
                "train.bootstrap=classes: data.protocol=images trains one classifier of all classes, and would miss "
                "those that are not drawn: type train.bootstrap=images"
            )
        return _classes(split, drawn)
    return _repeated_images(split, drawn) if mini_batches else _unique_images(split, drawn)


def _classes(split: Split, drawn: torch.Generator) -> Split:
    """Return the classes that were drawn, each weighted by how often."""
    classes = len(split.ids)
    times = torch.randint(classes, (classes,), generator=drawn).bincount(minlength=classes)
    kept = times.nonzero().flatten()
    first, count = split.first[kept], split.count[kept]
    seen = _covered(len(split.images), first, count)
    families = split.families and split.families._replace(family=split.families.family[kept])
    return replace(
        split,
        first=first,
        count=count,
        ids=[split.ids[k] for k in kept.tolist()],
        names=[split.names[k] for k in kept.tolist()],
        image_ids=_blanked(split.image_ids, seen),
        turns=None if split.turns is None else split.turns[kept],
        families=families,
        aliases=aliases_at(split, kept.tolist()),
        resampling=Resampling(times[kept].double(), None, None),
        note=_noted(split, f"train.bootstrap=classes: {len(kept)} of {classes} classes, drawn with replacement"),
    )


def _repeated_images(split: Split, drawn: torch.Generator) -> Split:
    """Return the split whose mini-batches go through images drawn with replacement within each class."""
    start = split.count.cumsum(0) - split.count
    items = start.repeat_interleave(split.count) + _places(split.count, drawn)
    label = torch.searchsorted(split.count.cumsum(0), items, right=True)
    seen = torch.zeros(len(split.images), dtype=torch.bool)
    seen[split.first[label] + items - start[label]] = True
    return replace(
        split,
        image_ids=_blanked(split.image_ids, seen),
        resampling=Resampling(None, items, None),
        note=_noted(split, _share(seen)),
    )


def _unique_images(split: Split, drawn: torch.Generator) -> Split:
    """Return the split with those images of each class that were drawn, once each."""
    first, of = torch.unique(split.first, return_inverse=True)  # classes that are turns of others share their images
    count = torch.zeros_like(first).scatter_(0, of, split.count)
    rows = first.repeat_interleave(count) + _places(count, drawn)
    kept = torch.unique(rows)
    left = (torch.searchsorted(first, kept, right=True) - 1).bincount(minlength=len(first))
    seen = torch.zeros(len(split.images), dtype=torch.bool)
    seen[kept] = True
    return replace(
        split,
        images=split.images[kept.to(split.images.device)],
        first=(left.cumsum(0) - left)[of],
        count=left[of],
        files=[split.files[i] for i in kept.tolist()] if split.files else [],
        image_ids=[split.image_ids[i] for i in kept.tolist()] if split.image_ids else [],
        group=None if split.group is None else split.group[kept],
        query_images=None if split.query_images is None else split.query_images[kept],
        note=_noted(split, _share(seen)),
    )


def _places(count: Tensor, drawn: torch.Generator) -> Tensor:
    """Return int64 [sum(count)]: for each class as many places within it, drawn with replacement, as it has images."""
    sizes = count.repeat_interleave(count)
    return (torch.rand(len(sizes), generator=drawn, dtype=torch.float64) * sizes).long()


def _covered(images: int, first: Tensor, count: Tensor) -> Tensor:
    """Return which of the images are of one of the classes, bool [N]."""
    edges = torch.zeros(images + 1, dtype=torch.int64)
    edges.index_add_(0, first, torch.ones_like(first))
    edges.index_add_(0, first + count, -torch.ones_like(first))
    return edges.cumsum(0)[:images] > 0


def _blanked(ids: list[str], seen: Tensor) -> list[str]:
    return [own if there else "" for own, there in zip(ids, seen.tolist(), strict=False)]


def _share(seen: Tensor) -> str:
    share = 100 * float(seen.double().mean())
    return f"train.bootstrap=images: {share:.0f} % of the images, drawn with replacement within each class"


def _noted(split: Split, note: str) -> str:
    return "; ".join(filter(None, [split.note, note]))
