"""What a net says of each query of an evaluation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metalab.algorithms.objectives.build import by_way
from metalab.evaluation.measure import measure
from metalab.evaluation.objectives import measured_objective
from metalab.evaluation.query_predictions import Kept, WithPredictions
from metalab.evaluation.setup import EvaluationSetup


@dataclass(frozen=True)
class Measured:
    """What a net says of each query of all episodes."""

    logits: list[Tensor]  # of each meta-batch, [T,N,K], on the processor; of images [N,1,K]
    accuracy: np.ndarray  # float64 [E], of each episode, or image
    loss: np.ndarray  # float64 [E]


def measured(t: EvaluationSetup) -> Measured:
    """Return what a net says of its episodes: the numbers of an evaluation of it alone."""
    objective = by_way(
        t.task,
        t.test_algorithm,
        lambda algo, way: WithPredictions(measured_objective(t.algo, algo, t.bn, way, t.terms), logits=True),
    )
    torch.manual_seed(t.config.seed)  # of heads that are drawn for each task
    kept = Kept("logits")
    results = kept.watch(t.outcomes(objective, t.source(t.task), t.protocol.unit))
    accuracy, loss = measure(results, t.evaluation.episodes)
    return Measured([part.cpu() for part in kept.parts], accuracy, loss)


def labels_of(t: EvaluationSetup, found: Measured) -> list[Tensor]:
    """Return the labels of the queries of each meta-batch, int64 [T,N]; of images [N,1]."""
    made, source = [], t.source(t.task)
    for step, part in enumerate(found.logits):
        made.append(t.protocol.query_labels(source.indices(step), t.task, part.shape[1]))
    return made
