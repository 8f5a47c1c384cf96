"""The images of several domains under the classes of one label space."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import Split, UnlabelledImages
from metalab.core.text import first_names
from metalab.data.datasets.base.image_split import with_images
from metalab.data.identity.class_ids import one_name, spelled
from metalab.data.sampling.class_order import aliases_at


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a net, in the order of its logits: those of the first source domain, ids and names."""

    domain: str
    ids: list[str]
    names: list[str]

    def aligned(self, split: Split, domain: str) -> Split:
        """Return a domain's images under these classes, known by their names.

        Raises:
            UserError: where one of the two domains has a class that the other lacks, or two of one name.
        """
        place = {one_name(name): k for k, name in enumerate(split.names)}
        if twins := [name for k, name in enumerate(split.names) if place[one_name(name)] != k]:
            pair = [twins[0], split.names[place[one_name(twins[0])]]]
            raise UserError(
                f"{domain} has two classes of one name, {' and '.join(spelled(name, pair) for name in pair)}: classes "
                "of domains are known by their names, whatever the case: rename one"
            )
        wanted = [one_name(name) for name in self.names]
        lacking = [f"{name} ({domain})" for name in self.names if one_name(name) not in place]
        lacking += [f"{name} ({self.domain})" for name in split.names if one_name(name) not in wanted]
        if lacking:
            raise UserError(
                f"{self.domain} and {domain} are not of one label space, {len(lacking)} classes are missing in one of "
                f"them: {first_names(lacking)}. Choose domains with the same names of classes"
            )
        order = [place[name] for name in wanted]
        if order != list(range(len(order))):
            split = with_images(split, [_images(split, k) for k in order])
        aliases = [] if split.ids == self.ids else [split.ids[k] for k in order]
        return replace(split, ids=self.ids, names=self.names, aliases=aliases)


def joined(parts: Sequence[Split]) -> Split:
    """Return the images of several splits class by class; all have the same classes in one order, and one shape."""
    if len(parts) == 1:
        return parts[0]
    whole = replace(
        parts[0],
        images=torch.cat([part.images for part in parts]),
        files=[file for part in parts for file in part.files],
        image_ids=[image for part in parts for image in part.image_ids],
        aliases=[each for own in dict.fromkeys(tuple(part.aliases) for part in parts) for each in own],
        class_sizes={},
        note="; ".join(dict.fromkeys(part.note for part in parts)),
    )
    starts = np.cumsum([0, *(len(part.images) for part in parts[:-1])]).tolist()
    chosen = [
        np.concatenate([start + _images(part, k) for start, part in zip(starts, parts, strict=True)])
        for k in range(len(whole.ids))
    ]
    return with_images(whole, chosen)


def some_classes(split: Split, chosen: Sequence[int]) -> Split:
    """Return the split with these of its classes, in this order, as episodes have them."""
    kept = with_images(split, [_images(split, k) for k in chosen])
    ids, names = [split.ids[k] for k in chosen], [split.names[k] for k in chosen]
    return replace(kept, ids=ids, names=names, aliases=aliases_at(split, chosen), by_image=False, class_sizes={})


def without_labels(split: Split, name: str, tested: Sequence[str] = ()) -> UnlabelledImages:
    """Return the images of a split as a target's: no label is left, also not in their order, which their pixels make.

    tested: the ids of images that are tested, which are left out.
    """
    images, ids = split.images.numpy(), split.image_ids or [""] * len(split.images)
    refused = {image for image in tested if image}
    digest = [hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).digest() for x in images]
    kept = [i for i in sorted(range(len(ids)), key=lambda i: (digest[i], ids[i])) if ids[i] not in refused]
    return UnlabelledImages(torch.from_numpy(images[kept]), [ids[i] for i in kept], name)


def _images(split: Split, k: int) -> np.ndarray:
    first = int(split.first[k])
    return np.arange(first, first + int(split.count[k]))
