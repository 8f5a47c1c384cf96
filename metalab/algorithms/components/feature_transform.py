"""What is done to features before a method of fixed features compares them: Wang et al. 2019 (SimpleShot), sec. 3.2."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.interfaces import Learner
from metalab.models.layers import FeatureCentering

Transform = Literal["un", "l2n", "cl2n"]  # as they are; of length 1; less the training features' mean, then of length 1


def transform_parts(features: int, transform: Transform) -> dict[str, nn.Module]:
    """Return what holds the mean of the training features, where the transform takes it; else nothing."""
    return {"centre": FeatureCentering(features)} if transform == "cl2n" else {}


def transform_without_training(transform: Transform) -> dict[str, str]:
    """Return the setting with which the transform needs no training: without it there is no mean to take."""
    return {"transform": "l2n"} if transform == "cl2n" else {}


def transformed(learner: Learner, x: Tensor, transform: Transform) -> Tensor:
    """Return the transformed features [N,D] of images x [N,C,H,W]."""
    features = learner.features(x).flatten(1)
    if transform == "cl2n":
        features = learner.part("centre", features)
    return features if transform == "un" else F.normalize(features, dim=1)
