"""Images of the same classes in several domains: labelled in the source, without labels in the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, final

import numpy as np
import torch

from metalab.config.validate import format_value, suggest
from metalab.core.errors import UserError
from metalab.core.interfaces import Data, Split, UnlabelledImages
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.base.class_split import check_classes
from metalab.data.datasets.base.published import check_size
from metalab.data.datasets.domain_classes import LabelSpace, joined, some_classes, without_labels
from metalab.data.datasets.domain_sources import (
    EXAMPLE,
    Domain,
    Reading,
    domain_names,
    domain_of_data_set,
    domain_of_root,
    native_size,
)
from metalab.data.storage.resize import resize_split
from metalab.data.storage.store import NoSplit


@final
@dataclass(frozen=True)
class Domains:
    """Serve domains of one label space as images [channels,size,size]; the classes are the first source's, by name.

    protocol=images: train and val are the sources', and test is the target's, or the sources' where there is no target.
    What of the target is not tested stands beside the training images, without labels (Split.target); no image of
    it has a part in validation. Each domain is split as its authors did, else by `seed`, a fifth of each class for the
    test. protocol=classes: whole classes are train, val and test, `classes` of each, drawn by `seed`; beside training
    stand the target's images of the training classes.
    Raises UserError.
    """

    root: str | None
    source: str | list[str] | None
    target: str | None
    source_root: str | list[str | None] | None
    target_root: str | None
    cache: str | None
    size: int | None
    channels: Literal[1, 3] | None
    protocol: Literal["images", "classes"]
    classes: list[int] | None
    seed: int

    def __post_init__(self) -> None:
        if self.size is not None:
            check_size(self.size, 72)
        if self.seed < 0:
            raise UserError(f"data.seed={self.seed}: expected 0 or more; type data.seed=0")
        if self.root is not None and (self.source_root is not None or self.target_root is not None):
            raise UserError("data.root has all domains: leave out data.source_root and data.target_root, or data.root")
        if self.root is None and self.source is None:
            raise UserError(
                f"data=domains needs a folder of domains, or two data sets: type {EXAMPLE} data.target=..., or "
                "data.source=mnist data.target=usps"
            )
        if self.protocol == "images" and self.classes is not None:
            raise UserError("data.protocol=images has all classes in each split: leave out data.classes")
        if self.protocol == "classes" and self.classes is None:
            raise UserError("data.protocol=classes splits the classes: type how many, as data.classes=[4,1,2]")

    @cached_property
    def sources(self) -> list[str]:
        """The names of the source domains; UserError for one that is not there, or that is the target."""
        given = [self.source] if isinstance(self.source, str) else self.source
        there = None if self.root is None else domain_names(self.root)
        chosen = [name for name in there or [] if name != self.target] if given is None else list(given)
        if self.target in chosen:
            raise UserError(
                f"data.target={self.target} is a source domain as well: leave it out of data.source, or type "
                "data.target=null to test on the sources"
            )
        for key, names in {"source": chosen, "target": [self.target] if self.target else []}.items():
            for name in names:
                if there is not None and name not in there:
                    raise UserError(f"data.{key}={name}: there is no such domain in {self.root}.{suggest(name, there)}")
        if not chosen or len(set(chosen)) < len(chosen):
            raise UserError(f"data.source={format_value(chosen)}: expected one domain or several, each once")
        return chosen

    def load(self, split: str) -> Split:
        """Return the train, val or test images, or classes; UserError where a domain cannot be had or has others."""
        if split != "test" or self.target is None:
            loaded = self._served(self.sources, split)
            return loaded if split != "train" else replace(loaded, target=self._unlabelled())
        loaded = self._served([self.target], split)
        notes = [f"source {', '.join(self.sources)}", f"target {loaded.note}", self._disjoint()]
        return replace(loaded, note="; ".join(filter(None, notes)))

    def of_source(self) -> "Domains":
        """Return the same data without its target: its test images, or classes, are the sources'."""
        return replace(self, source=self.sources, target=None, target_root=None)

    def across(self, split: str, query_domain: str) -> Split:
        """Return the classes of a split with queries of one domain and supports of the source's others.

        Raises:
            UserError: for a domain that is not there, and, but for the test, for the target.
        """
        key = f"task.query_domain={query_domain}"
        if self.protocol == "images":
            raise UserError(f"{key} is of episodes: type data.protocol=classes data.classes=[4,1,2]")
        if split != "test" and query_domain == self.target:
            raise UserError(
                f"{key} is the target, whose labels are hidden from training and validation: type one of the sources, "
                f"{', '.join(self.sources)}, or leave it to metalab eval"
            )
        others = [name for name in self.sources if name != query_domain]
        if query_domain not in (*self.sources, self.target) or not others:
            there = [*self.sources, *([self.target] if self.target else [])]
            raise UserError(
                f"{key}: expected one domain of several, for a support of the others; here: {', '.join(there)}"
            )
        loaded = self._served([*others, query_domain], split)
        asked = torch.tensor([file.startswith(f"{query_domain}/") for file in loaded.files])
        said = f"queries of {query_domain}, supports of {', '.join(others)}"
        loaded = replace(loaded, query_images=asked, note="; ".join(filter(None, [said, loaded.note])))
        return replace(loaded, target=self._unlabelled()) if split == "train" else loaded

    def _served(self, names: Sequence[str], split: str) -> Split:
        if self.protocol == "images":
            return joined([self._part(name, split) for name in names])
        chosen = self._chosen(split)  # before all images are put together
        return joined([some_classes(self._part(name, part), chosen) for name in names for part in SPLITS])

    def _unlabelled(self) -> UnlabelledImages | None:
        """Return what training sees of the target: all that is not tested, without labels."""
        if self.target is None:
            return None
        if self.protocol == "classes":
            return without_labels(self._served([self.target], "train"), self.target)
        seen = joined([self._part(self.target, split) for split in ("train", "val")])
        return without_labels(seen, self.target, self._part(self.target, "test").image_ids)

    def _disjoint(self) -> str:
        if self.protocol == "classes":
            return f"of {self.target} training may see the images of its own classes, without labels"
        drawn = "" if self.root is None else f", a fifth of each class by seed {self.seed},"
        return f"the tested images{drawn} are none of those of {self.target} that training may see without labels"

    def _chosen(self, split: str) -> list[int]:
        """Return the numbers of the split's classes; `seed` draws them in the order of their names."""
        names, counts = self._labels.names, self.classes or []
        check_classes(counts, self.seed, len(names))
        order = np.argsort(np.array(names))[np.random.default_rng(self.seed).permutation(len(names))].tolist()
        at = SPLITS.index(split)
        if not counts[at]:
            raise NoSplit(f"data.classes={list(counts)} leaves no class for {split}: type three numbers above 0")
        return order[sum(counts[:at]) : sum(counts[: at + 1])]

    def _part(self, name: str, split: str) -> Split:
        """Return a domain's images of a split, of the size of all, under the classes of all, with its name."""
        channels, size = self._shape
        fitted = resize_split(self._domains[name].load(split), channels, size, "as those of the other domains")
        note = f"{name} ({fitted.note})" if fitted.note else name
        made = self._labels.aligned(fitted, name)
        return replace(made, files=[f"{name}/{file}" for file in made.files], note=note)

    @cached_property
    def _labels(self) -> LabelSpace:
        first = self._domains[self.sources[0]].load("test")
        return LabelSpace(self.sources[0], first.ids, first.names)

    @cached_property
    def _shape(self) -> tuple[int, int]:
        channels, size, _ = self._domains[self.sources[0]].load("test").images.shape[1:]
        return self.channels or channels, self.size or size

    @cached_property
    def _domains(self) -> dict[str, Domain]:
        names = [*self.sources, *([] if self.target is None else [self.target])]
        how = Reading(self.size, self.channels or 3, self.cache, self.seed)
        if self.root is not None:
            return {name: domain_of_root(self.root, name, how) for name in names}
        given = self.source_root if isinstance(self.source_root, list) else [self.source_root] * len(self.sources)
        if len(given) != len(self.sources):
            raise UserError(
                f"data.source_root has {len(given)} folders for {len(self.sources)} sources: type one for each"
            )
        how = replace(how, size=self.size or native_size(self.sources[0]))
        found = {name: (root, "data.source_root") for name, root in zip(self.sources, given, strict=True)}
        found |= {} if self.target is None else {self.target: (self.target_root, "data.target_root")}
        return {name: domain_of_data_set(name, root, how, key) for name, (root, key) in found.items()}


def load_split(data: Data, split: str, query_domain: str | None) -> Split:
    """Return a split of a data set; with task.query_domain one of domains, whose queries are of that one alone."""
    if query_domain is None:
        return data.load(split)
    if not isinstance(data, Domains):
        raise UserError(
            f"task.query_domain={query_domain}: this data has no domains; type data=domains, or leave it out"
        )
    return data.across(split, query_domain)
