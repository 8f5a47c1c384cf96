"""Any classification net of torchvision as a backbone: from scratch, or with weights that others trained."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from metalab.config.paths import given_path
from metalab.config.validate import suggest
from metalab.core.errors import UserError
from metalab.core.interfaces import ImagePreparation
from metalab.models.feature_extractor import FeatureExtractor, feature_extractor
from metalab.models.layers import Normalize
from metalab.models.pretrained.lora import LoRA, LoRALayers, add_lora
from metalab.models.pretrained.pretrained_classes import (
    NOTE,
    UNKNOWN,
    check_classes,
    pretrained_class_ids,
    refuse_unsaid,
)
from metalab.models.pretrained.trainable_blocks import Trainable, freeze_blocks, top_level_blocks
from metalab.models.pretrained.weights_file import fill, read_state_dict


@dataclass(frozen=True)
class Torchvision:
    """A classification net of torchvision by its name, its classifier taken off.

    weights: null (random, batch norms converted to BatchStatNorm), a name of torchvision's, or a file with a state
    dictionary of that net; pretrained batch norms keep their running statistics. classes: which classes the weights
    were trained on: imagenet, none, unknown, a list of global ids or a text file with one a line; null: what
    torchvision says. trainable: all, none, or how many of the net's last blocks learn (trainable_blocks.py). lora: the
    rank of additions that learn in the place of those blocks' weights, with lora_on and lora_alpha as LoRA has them
    (lora.py); null: the weights themselves.
    """

    name: str
    weights: str | None
    classes: str | list[str] | None
    trainable: Trainable = "all"
    lora: int | None = None
    lora_on: LoRALayers = "all"
    lora_alpha: float | None = None

    def __post_init__(self) -> None:
        from torchvision import models  # here, for it takes a second

        names = models.list_models(module=models)
        if self.name not in names:
            raise UserError(
                f"backbone.name={self.name}: torchvision has no such classification net.{suggest(self.name, names)}"
            )
        if self.weights is not None:
            given_path(self.weights, "backbone.weights", "DEFAULT")
        check_classes(self.classes, self.weights)

    def normalization(self) -> Normalize | None:
        """Return what the weights expect of images in [0,1]; None where they are random."""
        own = self.preparation()
        return None if own is None else Normalize(own.mean, own.std)

    def preparation(self) -> ImagePreparation | None:
        """Return how the images of the weights were prepared; of a file's, as those of torchvision's first weights."""
        if self.weights is None:
            return None
        entries = self._entries()
        made = (entries[self.weights] if self._named() else next(iter(entries))).transforms()
        [size], [resize] = made.crop_size, made.resize_size
        return ImagePreparation(size, resize, made.interpolation.value, list(made.mean), list(made.std))

    def seen(self) -> set[str]:
        """Return the global ids of the classes that the weights were trained on; UserError where nobody says."""
        if self.weights is not None and not self._named() and self.classes is None:
            refuse_unsaid(self.weights)
        return pretrained_class_ids(self.classes or ("none" if self.weights is None else "imagenet"))

    def note(self) -> str:
        """Return what every result of the weights must say; empty: nothing."""
        return NOTE if self.classes == UNKNOWN else ""

    def build(self, channels: int, size: int) -> nn.Module:
        """Return the net without weights; load fills them in."""
        from torchvision import models

        net = models.get_model(self.name, weights=None)
        if "aux_logits" in vars(net):
            vars(net)["aux_logits"] = False  # GoogLeNet and Inception give several outputs in training with them
        head = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
        owner, _, leaf = head.rpartition(".")
        setattr(net.get_submodule(owner), leaf, nn.Identity())
        freeze_blocks(net, top_level_blocks(net), self.trainable, self.name)
        add_lora(net, LoRA(self.lora, self.lora_on, self.lora_alpha), self.weights is not None, self.name)
        shape = (channels, size)
        return feature_extractor(net, (head,), self.weights is not None, f"backbone.name={self.name}", shape)

    def load(self, body: nn.Module) -> None:
        """Fill a body of `build` with the weights; UserError where they cannot be had or do not fit."""
        if self.weights is not None and isinstance(body, FeatureExtractor):
            given = self._downloaded(self.weights) if self._named() else self._read(self.weights)
            fill(body, given, self.weights, self.name)

    def _entries(self) -> Any:
        from torchvision import models

        return models.get_model_weights(self.name)

    def _named(self) -> bool:
        return self.weights == "DEFAULT" or self.weights in self._entries().__members__

    def _read(self, given_file: str) -> dict[str, Tensor]:
        file = given_path(given_file, "backbone.weights", "/path/to/weights.pt")
        if not file.is_file():
            known = ", ".join(["DEFAULT", *self._entries().__members__])
            raise UserError(
                f"backbone.weights={file}: neither a file nor weights that torchvision has of {self.name}: {known}"
            )
        return read_state_dict(file)

    def _downloaded(self, weights: str) -> dict[str, Tensor]:
        try:
            return dict(self._entries()[weights].get_state_dict(progress=False, check_hash=True))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"backbone.weights={weights} of {self.name} could not be downloaded: {error}. Fetch the file "
                "elsewhere and type backbone.weights=/path/to/it backbone.classes=imagenet"
            ) from error
