"""The objective of a test of all classes at once: one adaptation, and queries that are read in chunks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import correct
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import Batch, Episode, Learner, Split, TaskResult
from metalab.core.iteration import last
from metalab.core.typed_torch import split as pieces
from metalab.data.sampling.all_way import AllWayEpisodes
from metalab.evaluation.query_predictions import predicted

CHUNK_NUMBERS = 2**22  # pixels, or features, of the queries that are predicted at once: 198 colour images of 84 x 84
CHUNK_IMAGES = 64  # at least


def chunk_size(split: Split) -> int:
    """Return how many images of a split are predicted at once."""
    return max(CHUNK_IMAGES, CHUNK_NUMBERS // split.images[0].numel())


@dataclass(frozen=True)
class AllWayObjective:
    """Adapt to the support once, and predict the queries of AllWayEpisodes in chunks, as `measured` does.

    scalars: also `predicted` int64 [Q], as WithPredictions. chunk: None: all at once, for what infers them together.
    """

    measured: QueryLoss
    source: AllWayEpisodes
    chunk: int | None

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        own, (places, y, _) = self.measured, episode.query
        model = last(own.algorithm.adapt(learner, episode.support, own.inner, own.steps))
        seen: list[Tensor] = []

        def kept(x: Tensor) -> Tensor:
            seen.append(own.predict(model, episode.support.x, x))
            return seen[-1]

        size = self.chunk or len(y)
        loss = torch.zeros((), device=y.device)
        for some, labels in zip(pieces(places, size), pieces(y, size), strict=True):
            x = self.source.images(some)
            loss = loss + own.outer(kept, Batch(x, labels, x[:0])) * (len(labels) / len(y))
        logits = torch.cat(seen)
        return TaskResult(loss, correct(logits, y), {"loss": loss, "predicted": predicted(logits)}, {})
