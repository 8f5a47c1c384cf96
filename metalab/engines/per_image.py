"""Mini-batches without a support, of which each image counts for itself."""

from dataclasses import dataclass

from torch import Tensor, nn

from metalab.core.interfaces import Engine, Episode, Objective, TaskResult


@dataclass(frozen=True)
class PerImageEngine:
    """Run as `engine` does, and give what it measures image by image, as of episodes with one query each."""

    engine: Engine

    def grad(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        return self.engine.grad(objective, net, episodes, progress)

    def evaluate(self, objective: Objective, net: nn.Module, episodes: Episode) -> TaskResult:
        result = self.engine.evaluate(objective, net, episodes)
        images = result.correct.shape[1]

        def each(value: Tensor) -> Tensor:
            """[T] of mini-batches, which all their images share, -> [T*N]; [T,N,...] -> [T*N,1,...]."""
            return value.repeat_interleave(images) if value.dim() == 1 else value.flatten(0, 1)[:, None]

        scalars = {name: each(value) for name, value in result.scalars.items()}
        return TaskResult(each(result.loss), each(result.correct), scalars, result.state)
