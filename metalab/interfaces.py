"""What a part of one's own is written against: the types of metalab.core.interfaces, for users to import."""

from metalab.core.interfaces import (
    Algorithm,
    Batch,
    Data,
    Engine,
    Episode,
    EpisodeSource,
    Learner,
    Loss,
    Model,
    Objective,
    Split,
    TaskResult,
)

__all__ = [
    "Algorithm",
    "Batch",
    "Data",
    "Engine",
    "Episode",
    "EpisodeSource",
    "Learner",
    "Loss",
    "Model",
    "Objective",
    "Split",
    "TaskResult",
]
