"""A class's centre that wrong labels move less than the mean: the spatial median of its support features."""

from torch import Tensor

from metalab.algorithms.components.distances import class_means, members
from metalab.algorithms.components.heads import full_precision

STEPS = 20  # of Weiszfeld's iteration; tests compare it with a minimizer


def class_centers(features: Tensor, y: Tensor, way: int, median: bool) -> Tensor:
    """Return the mean or the spatial median [K,D] of the features [N,D] of each class; y [N] are their labels."""
    return class_medians(features, y, way) if median else class_means(features, y, way)


def class_medians(features: Tensor, y: Tensor, way: int) -> Tensor:
    """Return the point [K,D] with the least sum of distances to each class's features [N,D], by Weiszfeld's iteration.

    Of one or two images of a class it is their mean. As prototypes under label noise: Liang, Rangrej, Petrovic, Hassner
    2022. Distances are smoothed, sqrt(d^2 + e^2), e a ten-thousandth of the class's spread, so that a gradient is there
    where the median meets an image.
    """
    with full_precision(features.device.type):  # distances from a center that is rounded would be others
        member = members(y, way).to(features.dtype)  # [N,K]
        center = class_means(features, y, way)
        spread = (member.T @ _off(features, member @ center)) / member.sum(0)  # [K]
        smooth = member @ (1e-4 * spread + 1e-12)  # [N]
        for _ in range(STEPS):
            weight = member / (_off(features, member @ center).square() + smooth.square()).sqrt()[:, None]
            center = (weight / weight.sum(0)).T @ features
    return center


def _off(features: Tensor, centers: Tensor) -> Tensor:
    """Return the distance [N] of each of features [N,D] to its own center [N,D]; its gradient is 0 where they meet."""
    return (features - centers).square().sum(1).clamp(min=1e-12).sqrt()
