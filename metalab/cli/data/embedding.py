"""What a backbone makes of the images of a split, as a picture: their features in two dimensions, a colour a class."""

from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from metalab.core.errors import UserError
from metalab.core.interfaces import Backbone, Split
from metalab.data.storage.resize import resize_split
from metalab.evaluation.feature_store import embed_split
from metalab.models.build import build_body, image_shape, load_pretrained, normalization
from metalab.models.meta_net import Net

CLASSES, IMAGES = 20, 100  # the most classes, and images of each, that are drawn
METHODS = {"pca": "principal components", "tsne": "t-SNE"}


def embedding(split: Split, backbone: Backbone, data: dict[str, Any], method: str, seed: int) -> Figure:
    """Draw the features of a split's images, by scikit-learn's PCA or t-SNE.

    Args:
        split: whose images are drawn: of up to 20 classes, evenly spaced, the first 100 each.
        backbone: makes the features, by its own weights or random ones.
        data: the group of that name, whose `cache` says where features are kept.
        method: pca or tsne (van der Maaten, Hinton 2008).
        seed: of t-SNE's start.

    Raises:
        UserError: for a split of fewer than three images, and a backbone that does not take them.
    """
    chosen = np.unique(np.linspace(0, len(split.ids) - 1, CLASSES).round().astype(int)).tolist()
    rows = [range(int(split.first[k]), int(split.first[k]) + min(int(split.count[k]), IMAGES)) for k in chosen]
    if sum(map(len, rows)) < 3:
        raise UserError("what=embedding: the split has fewer than three images")
    features = _features(split, backbone, data)
    x = torch.cat([features[row.start : row.stop] for row in rows]).flatten(1).numpy()
    owner = np.repeat(np.arange(len(chosen)), [len(row) for row in rows])
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    flat = _flattened(x, method, seed)
    colours = colormaps["tab20"]
    for i, k in enumerate(chosen):
        points = flat[owner == i]
        axes.scatter(points[:, 0], points[:, 1], s=12, color=colours(i % 20), label=split.names[k], linewidths=0)
    axes.set(title=f"{len(x):,} images by {METHODS[method]} of {x.shape[1]:,} features", xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False, markerscale=1.5)
    return figure


def _features(split: Split, backbone: Backbone, data: dict[str, Any]) -> torch.Tensor:
    """Return the features [N,D,h,w] of all images of a split."""
    torch.manual_seed(0)
    channels, size = image_shape(split)
    body, _ = build_body(backbone, channels, size)
    own = getattr(backbone, "normalization", lambda: None)()
    net = Net(own or normalization(split.images), body, nn.Sequential(), {})
    load_pretrained(backbone, net)
    return embed_split(net, resize_split(split, channels, size), data, torch.device("cpu"))[1].images


def _flattened(x: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Return [N,2] of features [N,D]."""
    from sklearn.decomposition import PCA  # a second, which no other picture should wait for
    from sklearn.manifold import TSNE

    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(x)
    start = PCA(min(50, *x.shape), random_state=seed).fit_transform(x)
    return TSNE(2, perplexity=min(30, (len(x) - 1) / 3), init="pca", random_state=seed).fit_transform(start)
