"""Whether an algorithm can follow episodes whose way is drawn anew."""

from dataclasses import replace

from torch import nn

from metalab.algorithms.objectives.build import at_way
from metalab.core.errors import UserError
from metalab.data.sampling.build import episode_source
from metalab.evaluation.measure import outcome
from metalab.evaluation.objectives import measured_objective
from metalab.training.setup import TrainingSetup


def check_supports_variable_way(r: TrainingSetup, net: nn.Module) -> None:
    """Raise UserError where the algorithm has learned parts for one way: try it with 2, which no episode has."""
    tasks = replace(r.task, way=2, shot=1, query=1, support=None)
    try:
        objective = measured_objective(r.test_algo, at_way(r.test_algorithm, 2), r.bn, 2, r.terms)
        outcome(r.engine, objective, net, episode_source(tasks, r.data["val"], 1, 0, "val", r.device)(0), r.bn)
    except (UserError, RuntimeError, ValueError) as error:
        raise UserError(
            f"task=variable draws the way anew for each episode, and algo={r.algo.name} has learned parts for one way "
            "alone: type algo=protonet, or algo.head_init=zero, random, prototype or knn where the algorithm has it"
        ) from error
