"""What the published data sets share that are served in their official split."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from metalab.core.interfaces import Split
from metalab.data.datasets.base.published import PublishedDataset, check_size
from metalab.data.storage.store import Store


@dataclass(frozen=True)
class OfficialSplitDataset:
    """Serve a published data set as images [channels,size,size]; a subclass says which, and its usual size."""

    benchmark: ClassVar[PublishedDataset]

    root: str | None = None
    cache: str | None = None
    size: int = 84

    def __post_init__(self) -> None:
        check_size(self.size, type(self).size)

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with what to fetch, or what is wrong with data.root."""
        return self.benchmark.split(self._store, split)

    @cached_property
    def _store(self) -> Store:
        return self.benchmark.store(self.root, self.cache, self.size)
