"""What is said of one picture: how likely each class is, which support images look like it, and what was looked at."""

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.serving.classifier import Adaptation
from metalab.serving.demo.occlusion import occlusion_map
from metalab.serving.loading import LoadedRun
from metalab.serving.practice import Practice

NEAREST = 5  # support images that are shown


class Neighbour(NamedTuple):
    """A support image that looks like the picture, to the net."""

    index: int  # of the support's images
    similarity: float  # cosine of the features, -1 to 1


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one picture."""

    label: str  # "": it is like none of the classes
    probabilities: dict[str, float]  # of each class
    nearest: list[Neighbour]  # the most similar one first; none without a support
    pixels: np.ndarray  # uint8 [C,H,W], as the net saw them
    importance: np.ndarray  # [H,W]: by how much the likeliest class's logit falls where the place is covered


def answer(practice: Practice, pixels: np.ndarray) -> Answer:
    """Classify a picture, uint8 [C,H,W], and look for what the answer leans on."""
    image = torch.from_numpy(pixels.copy())  # Pillow's are read-only
    classifier = practice.classifier
    logits = classifier.logits(image[None])
    shares = (logits / practice.temperature).softmax(1)[0]
    best = int(shares.argmax())
    adaptation, support = cast(LoadedRun, practice.run).adaptation, practice.support  # the page has no exported files
    at_once = 1 if adaptation.bn == "batch" else adaptation.batch  # where a prediction depends on the others beside it
    return Answer(
        label=classifier.names[best] if bool(practice.is_known(logits)[0]) else "",
        probabilities=dict(zip(classifier.names, shares.tolist(), strict=True)),
        nearest=[] if support is None else nearest(adaptation, support.images, image),
        pixels=pixels,
        importance=occlusion_map(classifier.logits, image, best, at_once).numpy(),
    )


def nearest(adaptation: Adaptation, support: Tensor, image: Tensor) -> list[Neighbour]:
    """Return the images of a support, uint8 [N,C,H,W], whose features are most like those of an image [C,H,W]."""
    of_support, of_image = adaptation.features(support, image[None])
    similarity = F.cosine_similarity(of_support, of_image)
    found = similarity.topk(min(NEAREST, len(support)))
    return [Neighbour(i, s) for i, s in zip(found.indices.tolist(), found.values.tolist(), strict=True)]
