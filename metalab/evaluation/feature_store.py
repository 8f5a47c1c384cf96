"""Features of a frozen net, computed once an image and kept beside the prepared images: episodes run on vectors."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from metalab.core.interfaces import Algorithm, Split, algorithm_traits
from metalab.data.identity.class_ids import fingerprint
from metalab.data.storage.store import cache_folder, open_or_build
from metalab.data.storage.writer import Record
from metalab.models.layers import has_batch_norm, running_statistics
from metalab.models.meta_net import Net, net_of_features

logger = logging.getLogger("metalab")
BATCH = 64  # images that go through the net at once
NAME = "features"  # of the store, and of the one split in it


def sees_features_alone(algorithm: Algorithm, net: nn.Module, bn: str) -> bool:
    """Return whether an algorithm needs no more of an image than its features, whatever images stand beside it.

    So it is where it leaves the body as it is, and no batch norm looks at the other images. What changes images, as a
    quarter turn, an attack or a regularizer of the inner steps, is the caller's to rule out.
    """
    return algorithm_traits(algorithm).frozen_body and (bn == "running" or not has_batch_norm(net))


def embed_split(net: Net, split: Split, data: dict[str, Any], device: torch.device) -> tuple[Net, Split]:
    """Return the net behind its body, and the split with features [N,D,h,w], float32, in the place of images.

    They are computed where no store holds them: it is one for a body's weights and a split's images, as they were
    prepared.

    Args:
        net: on the device, its body frozen.
        split: with images as the net takes them.
        data: the group of that name, whose `cache` says where stores are.
        device: where the net is.

    Raises:
        UserError: where the store cannot be written.
    """
    known = None if split.support is None else embed_split(net, split.support, data, device)[1]
    prepared = {key: data.get(key) for key in ("size", "resize", "interpolation", "channels")}
    recipe: dict[str, Any] = {
        "weights": weights_hash(net),
        "images": fingerprint(split),
        "shape": list(split.images.shape),
        "prepared": prepared,
    }
    if any(split.image_ids):  # of one's own, whose names and files say nothing of what they show
        recipe["image_ids"] = hashlib.sha256(repr(split.image_ids).encode()).hexdigest()
    name = f"{NAME}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}"
    folder = cache_folder(data.get("cache")) / name
    store = open_or_build(folder, recipe, lambda: _records(net, split, device), len(split.images))
    features = torch.from_numpy(store.images[NAME]).view(torch.float32)
    return net_of_features(net), replace(split, images=features, support=known)


def weights_hash(net: Net) -> str:
    """Return a hash of all that makes features of images: the normalization's and the body's tensors, by name."""
    found = hashlib.sha256(str(net.body).encode())
    for part in (net.normalize, net.body):
        for name, tensor in part.state_dict().items():
            found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@torch.no_grad()
def _records(net: Net, split: Split, device: torch.device) -> Iterator[Record]:
    """Give the features of each image as the bytes of its float32 numbers, [D,h,4 w], which the store keeps."""
    net.eval()
    owner = torch.arange(len(split.ids)).repeat_interleave(split.count).tolist()
    for start in range(0, len(split.images), BATCH):
        with running_statistics():
            x = split.images[start : start + BATCH].to(device).float().div_(255)
            made: np.ndarray = net("features", x).float().cpu().contiguous().view(torch.uint8).numpy()
        for i, features in enumerate(made, start):
            yield Record(
                features, str(owner[i]), split.names[owner[i]], NAME, split.files[i] if split.files else str(i)
            )
