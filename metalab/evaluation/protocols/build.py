"""The protocol by which a split is measured."""

from metalab.core.interfaces import Split
from metalab.evaluation.protocols.base import EvaluationProtocol
from metalab.evaluation.protocols.episodes import EpisodeProtocol
from metalab.evaluation.protocols.images import ImageProtocol


def evaluation_protocol(split: Split) -> EvaluationProtocol:
    """Return the protocol of a split: image by image where the data splits images, else in episodes."""
    return ImageProtocol() if split.by_image else EpisodeProtocol()
