"""Class names as weights of a classifier: the part of an algorithm that reads them, filled in by a text encoder."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.core.interfaces import Learner

Encoder = Callable[[list[str]], Tensor]  # N texts -> features [N,D]
WORDNET = re.compile(r"n\d{8}")
PREFIX = re.compile(r"(n\d{8}[-_]|\d+\.)(?=\D)")  # of Stanford Dogs' and CUB's folders
UNREAD = "class names are not read: the support decides alone"  # stands on a result


class NamedClasses(nn.Module, ABC):
    """A part of a net that is told what the classes are called.

    templates: sentences with {} for the name, over whose features of length 1 the mean is taken (Radford et al. 2021,
    sec. 3.1.4).
    """

    def __init__(self, templates: Sequence[str]) -> None:
        super().__init__()
        self.templates = list(templates)

    @abstractmethod
    def attach(self, backbone: object) -> bool:
        """Take the text encoder of the backbone that made the net's body; return whether it has one."""

    @abstractmethod
    def name(self, names: Sequence[str]) -> None:
        """Take the names of the classes, in their order; nothing where there is no encoder.

        Raises:
            UserError: for names that are WordNet's numbers, which say nothing to an encoder.
        """

    def texts(self, shown: Sequence[str]) -> list[str]:
        """Return the sentences of these names, name by name."""
        return [template.replace("{}", name) for name in shown for template in self.templates]


class TextClassifier(NamedClasses):
    """Hold a feature of length 1 for each class's name; none until they are named, and in no checkpoint."""

    features: Tensor  # [K,D]; [0,D]: nobody has said what the classes are called

    def __init__(self, features: int, templates: Sequence[str]) -> None:
        super().__init__(templates)
        self.encoder: Encoder | None = None
        self.known = dict[str, Tensor]()  # features [D] of the names so far
        self.register_buffer("features", torch.zeros(0, features), persistent=False)

    def attach(self, backbone: object) -> bool:
        self.encoder = getattr(backbone, "embed_texts", None)
        return self.encoder is not None

    @torch.no_grad()
    def name(self, names: Sequence[str]) -> None:
        if self.encoder is None:
            return
        shown = spoken(names)
        new = [name for name in dict.fromkeys(shown) if name not in self.known]
        if new:
            each = F.normalize(self.encoder(self.texts(new)), dim=1).unflatten(0, (len(new), -1))
            self.known |= dict(zip(new, F.normalize(each.mean(1), dim=1), strict=True))
        self.features = torch.stack([self.known[name] for name in shown]).to(self.features)


class TextEncoder(NamedClasses):
    """A text encoder as a part of the net, so that a task may adapt it: forward() gives the names' features [K,D].

    They have length 1. There is no encoder until a backbone gives one, it stands in no checkpoint, and no class until
    they are named.
    """

    tokens: Tensor  # int64 [K P,L], of P templates; [0,0]: nobody has said what the classes are called

    def __init__(self, templates: Sequence[str]) -> None:
        super().__init__(templates)
        self.encoder: nn.Module | None = None
        self.tokenize: Encoder | None = None
        self.register_buffer("tokens", torch.zeros(0, 0, dtype=torch.int64), persistent=False)

    def attach(self, backbone: object) -> bool:
        made = getattr(backbone, "text_encoder", None)
        if made is not None:
            encoder, self.tokenize = cast(Any, made())
            self.encoder = encoder.to(self.tokens.device)
        return made is not None

    def name(self, names: Sequence[str]) -> None:
        if self.tokenize is not None:
            self.tokens = self.tokenize(self.texts(spoken(names))).to(self.tokens)

    def forward(self) -> Tensor:
        encoder = self.encoder
        assert encoder is not None  # else there are no names, and nobody asks
        each = F.normalize(encoder(self.tokens), dim=1).unflatten(0, (-1, len(self.templates)))
        return F.normalize(each.mean(1), dim=1)


class CosineToNames:
    """The model of a learner with a part `text`: scale times the cosines of images and names, which it encodes once."""

    def __init__(self, learner: Learner, scale: float) -> None:
        self.learner, self.scale = learner, scale

    def __call__(self, x: Tensor) -> Tensor:
        images = F.normalize(self.learner.features(x).flatten(1), dim=1)
        return self.scale * images @ self._names.to(images.dtype).T

    def parameters(self) -> dict[str, Tensor]:
        """Return the learner's, for what penalizes weights."""
        return self.learner.parameters()

    @cached_property
    def _names(self) -> Tensor:
        return self.learner.part("text")


def spoken(names: Sequence[str]) -> list[str]:
    """Return the names of classes as one says them: without numbers in front and underscores, and the last of a path.

    What has a space is no path: "Ram C/V Cargo Van".

    Raises:
        UserError: for WordNet's numbers alone.
    """
    whole = [name if " " in name else name.rpartition("/")[2] for name in names]
    shown = [PREFIX.sub("", name, 1).replace("_", " ").strip() for name in whole]
    if numbers := [name for name in shown if WORDNET.fullmatch(name)]:
        raise UserError(f"class names are read, and {numbers[0]} is a number of WordNet's: give folders with names")
    return shown


def text_classifier(net: nn.Module) -> NamedClasses | None:
    """Return the part of a net that is told class names; None: its algorithm reads none."""
    return next((m for m in net.modules() if isinstance(m, NamedClasses)), None)


def read_names(net: nn.Module, backbone: object, names: Sequence[str] | None) -> str:
    """Let a net whose algorithm reads class names have them; return what a result must say.

    Args:
        net: with the algorithm's parts.
        backbone: what made its body: of open_clip's it is the text encoder that reads them.
        names: of all classes, in the order of their labels; None: they are given later, or are never known.

    Returns:
        A note; empty: the algorithm reads no names, or the encoder is there.
    """
    text = text_classifier(net)
    if text is None:
        return ""
    if not text.attach(backbone):
        return UNREAD
    if names is not None:
        text.name(names)
    return ""
