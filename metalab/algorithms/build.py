"""From the config's nodes to the objects that train and evaluate share: device, algorithm, objective, net."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from metalab.config.instantiate import build, locate, parts_of, settings
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Loss, ObjectiveTraits, objective_traits


@dataclass(frozen=True)
class AlgorithmSettings:
    """The keys of an algorithm's YAML that say how it is run; its other keys are the algorithm's own fields.

    A key test_x is x at validation and test: test_steps, test_batch, ...
    """

    name: str  # what reports call it
    objective: str
    bn: Literal["batch", "support", "one", "running"]
    meta_batch: int
    train_way: int | None
    train_shot: int | None
    train_query: int | None
    steps: int = 0
    mini_batch: int | None = None  # images; trains a plain classifier of all training classes; None: on episodes
    episode_loss: str = (
        "metalab.algorithms.objectives.cross_entropy"  # of inner steps and of training's queries; a Loss
    )
    besides: str | None = None  # a further objective that metalab eval reports, in episodes of the training's shots

    def __post_init__(self) -> None:
        if self.mini_batch is not None and self.mini_batch < 2:
            raise UserError(f"algo.mini_batch={self.mini_batch}: expected 2 images or more")
        if self.steps < 0 or self.meta_batch < 1:
            raise UserError(
                f"algo.steps, algo.test_steps must be 0 or more, here {self.steps}; "
                f"algo.meta_batch 1 or more, here {self.meta_batch}"
            )
        if self.besides is not None:
            locate(self.besides, "algo.besides")  # a mistyped path is told before any work
        _ = self.loss

    @property
    def objective_traits(self) -> ObjectiveTraits:
        """What the training objective declares of itself."""
        return objective_traits(locate(self.objective, "algo.objective"))

    @property
    def loss(self) -> Loss:
        """The loss of the support in inner steps, and of the queries in training."""
        return locate(self.episode_loss, "algo.episode_loss")


def build_algorithm(node: Mapping[str, Any], way: int, test: bool) -> tuple[AlgorithmSettings, Algorithm]:
    """Build the algorithm of the group algo, and what says how it is run.

    Args:
        node: the group; a key test_x is x where `test` is true, and counts for nothing else.
        way: the number of classes of its tasks.
        test: whether it is wanted as it is validated and tested, and not as it trains.

    Returns:
        How it is run, and the algorithm.

    Raises:
        UserError: for a setting that does not exist or is out of range.
    """
    test_algo = {k: v for k, v in node.items() if k.startswith("test_")}
    plain = {k: v for k, v in node.items() if k not in test_algo}
    if test:
        plain |= {k.removeprefix("test_"): v for k, v in test_algo.items()}
    algo, own = parts_of(plain, AlgorithmSettings)
    return settings(AlgorithmSettings, algo, "algo"), build(own, "algo", way=way)
