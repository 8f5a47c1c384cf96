"""Episodes of another source with corrupted images."""

from dataclasses import dataclass, field

from torch import Tensor

from metalab.core.interfaces import AttackedImages, Episode, EpisodeSource
from metalab.data.corruptions.build import corrupted
from metalab.data.sampling.seeded import generator


@dataclass
class CorruptedSource:
    """Give a source's episodes with corrupted images; a function of seed, stream, episode, kind and severity alone."""

    source: EpisodeSource
    kind: str
    severity: int
    on: AttackedImages
    seed: int
    stream: str
    example: Tensor | None = field(default=None, init=False)  # [C,H,W], the first image that was corrupted

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`; of a corrupted support the unlabelled images are corrupted, too."""
        support, query = self.source(step)
        if self.on != "query":
            x, unlabelled = self._corrupted(support.x, "support", step), support.unlabelled
            support = support._replace(x=x, unlabelled=self._corrupted(unlabelled, "unlabelled", step))
        if self.on != "support":
            query = query._replace(x=self._corrupted(query.x, "query", step))
        if self.example is None:
            self.example = (support if self.on == "support" else query).x[0, 0].cpu()
        return Episode(support, query)

    def _corrupted(self, x: Tensor, part: str, step: int) -> Tensor:
        """Return images [T,N,C,H,W] of a part of meta-batch `step`, corrupted."""
        names = [f"{step * len(x) + t}/{part}/{self.kind}/{self.severity}" for t in range(len(x))]
        drawn = [generator(self.seed, f"{self.stream}/corrupt", name) for name in names]
        return corrupted(x, self.kind, self.severity, drawn)
