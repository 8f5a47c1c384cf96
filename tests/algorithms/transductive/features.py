"""Episodes of features in the place of images, and the models that algorithms make of them."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from metalab.algorithms import BDCSPN, PTMAP, TIM, TPN, AlphaTIM, LaplacianShot, SoftKMeans
from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import Algorithm, Batch, Episode, Learner, Model
from metalab.engines.learn2learn import TaskLearner
from metalab.engines.vectorized import Vectorized
from metalab.models.meta_net import Net

WAY, DIM = 5, 16
TIM_LOSS = {"lr": 1e-3, "temperature": 15.0, "cross_entropy": 0.1, "marginal": 1.0, "conditional": 0.1}
ALGORITHMS: dict[str, Algorithm] = {
    "bdcspn": BDCSPN(WAY, "l2n", 10.0),
    "laplacianshot": LaplacianShot(WAY, "l2n", 2, None, 20, "classes", 10.0),
    "ptmap": PTMAP(WAY, 0.5, 10.0, 0.2, 20, 50),
    "tim_gd": TIM(WAY, "gd", 50, **TIM_LOSS),
    "tim_adm": TIM(WAY, "adm", 30, **TIM_LOSS),
    "alpha_tim": AlphaTIM(WAY, None, 50, **{**TIM_LOSS, "cross_entropy": 1.0, "conditional": 1.0}),
    "soft_kmeans": SoftKMeans(WAY, "l2n", 3, 0.1),
}


def gaussian(
    tasks: int, shot: int = 1, counts: tuple[int, ...] = (15,) * WAY, spread: float = 0.8, seed: int = 0
) -> Episode:
    """Episodes of float64 features [T,N,D,1,1], not negative: each class a Gaussian around a mean of its own."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    means = normal(tasks, WAY, DIM)

    def batch(each: tuple[int, ...]) -> Batch:
        y = torch.arange(WAY).repeat_interleave(torch.tensor(each))
        order = torch.rand(tasks, len(y), generator=draw).argsort(1)
        y = y[order]
        x = means[torch.arange(tasks)[:, None], y] + spread * normal(tasks, y.shape[1], DIM)
        return Batch(x.exp()[..., None, None], y, x[:, :0, :, None, None])

    return Episode(batch((shot,) * WAY), batch(counts))


def net_of(algorithm: Algorithm, dim: int = DIM) -> Net:
    """Return a net whose images are features."""
    torch.manual_seed(0)
    body = nn.Identity()
    return Net(nn.Identity(), body, nn.Sequential(), algorithm.parts(body, dim)).double()


def model_of(algorithm: Algorithm, support: Batch) -> Model:
    """Return the model that an algorithm makes of a support of features."""
    (model,) = algorithm.adapt(cast(Learner, TaskLearner(net_of(algorithm), False)), support, cross_entropy, 0)
    return model


def accuracies(algorithm: Any, episodes: Episode) -> Tensor:
    """Return the accuracy of each episode [T]."""
    objective = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, PREDICTIONS["running"])
    return Vectorized(None).evaluate(objective, net_of(algorithm), episodes).correct.double().mean(1)


__all__ = ["ALGORITHMS", "DIM", "TIM_LOSS", "TPN", "WAY", "accuracies", "gaussian", "model_of", "net_of"]
