"""Class names as weights of a classifier: the part of an algorithm that reads them, filled in by a text encoder."""

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.errors import UserError

Encoder = Callable[[list[str]], Tensor]  # N texts -> features [N,D]
WORDNET = re.compile(r"n\d{8}")
PREFIX = re.compile(r"(n\d{8}[-_]|\d+\.)(?=\D)")  # of Stanford Dogs' and CUB's folders
UNREAD = "class names are not read: the support decides alone"  # stands on a result


class TextClassifier(nn.Module):
    """Hold a feature of length 1 for each class's name; none until they are named, and in no checkpoint.

    templates: sentences with {} for the name, over whose features of length 1 the mean is taken (Radford et al. 2021,
    sec. 3.1.4). encoder: of texts; None: the backbone has none, and names are not read.
    """

    features: Tensor  # [K,D]; [0,D]: nobody has said what the classes are called

    def __init__(self, features: int, templates: Sequence[str]) -> None:
        super().__init__()
        self.templates = list(templates)
        self.encoder: Encoder | None = None
        self.known = dict[str, Tensor]()  # features [D] of the names so far
        self.register_buffer("features", torch.zeros(0, features), persistent=False)

    @torch.no_grad()
    def name(self, names: Sequence[str]) -> None:
        """Take the features of these classes, in their order; nothing where there is no encoder.

        Raises:
            UserError: for names that are WordNet's numbers, which say nothing to an encoder.
        """
        if self.encoder is None:
            return
        shown = [PREFIX.sub("", name.rpartition("/")[2], 1).replace("_", " ").strip() for name in names]
        if numbers := [name for name in shown if WORDNET.fullmatch(name)]:
            raise UserError(f"class names are read, and {numbers[0]} is a number of WordNet's: give folders with names")
        new = [name for name in dict.fromkeys(shown) if name not in self.known]
        if new:
            texts = [template.replace("{}", name) for name in new for template in self.templates]
            each = F.normalize(self.encoder(texts), dim=1).unflatten(0, (len(new), -1))
            self.known |= dict(zip(new, F.normalize(each.mean(1), dim=1), strict=True))
        self.features = torch.stack([self.known[name] for name in shown]).to(self.features)


def text_classifier(net: nn.Module) -> TextClassifier | None:
    """Return the part of a net that holds class names; None: its algorithm reads none."""
    return next((m for m in net.modules() if isinstance(m, TextClassifier)), None)


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
    text.encoder = getattr(backbone, "embed_texts", None)
    if text.encoder is None:
        return UNREAD
    if names is not None:
        text.name(names)
    return ""
