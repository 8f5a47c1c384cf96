"""What a part of one's own is written against: the types of metalab.core.interfaces, for users to import."""

from metalab.core.errors import UserError
from metalab.core.interfaces import (
    Algorithm,
    AlgorithmTraits,
    Backbone,
    Batch,
    Data,
    Engine,
    Episode,
    EpisodeSource,
    Learner,
    Loss,
    Model,
    Objective,
    ObjectiveTraits,
    Split,
    TaskResult,
)

__all__ = [
    "Algorithm",
    "AlgorithmTraits",
    "Backbone",
    "Batch",
    "Data",
    "Engine",
    "Episode",
    "EpisodeSource",
    "Learner",
    "Loss",
    "Model",
    "Objective",
    "ObjectiveTraits",
    "Split",
    "TaskResult",
    "UserError",
]
