"""Episodes made ahead of their use, for images that stay on the disk: while a step is taken the next ones are read."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import final

from metalab.core.errors import UserError
from metalab.core.interfaces import Episode, EpisodeSource


@final
@dataclass
class Prefetcher:
    """Give the meta-batches of a source, which threads make while the ones before are used.

    Threads and not processes: reading and copying run outside of Python's lock, images stay uint8 until they are on
    the device, and nothing is pickled. Which episodes there are does not change, for a source is a function of the
    step. What fails in a thread is raised where its step is asked for.
    """

    source: EpisodeSource
    workers: int  # threads, and meta-batches that are made ahead
    _pool: ThreadPoolExecutor = field(init=False, repr=False)
    _coming: dict[int, Future[Episode]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"train.workers={self.workers}: expected 1 thread or more to make episodes ahead")
        self._pool = ThreadPoolExecutor(self.workers, "episodes")

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`, and begin with those after it."""
        for number in range(step, step + 1 + self.workers):
            if number not in self._coming:
                self._coming[number] = self._pool.submit(self.source, number)
        for number in [n for n in self._coming if not step <= n <= step + self.workers]:
            self._coming.pop(number).cancel()  # after a jump, as in a resumed run
        return self._coming.pop(step).result()
