"""Any classification net of torchvision as a backbone: from scratch, or with weights that others trained."""

import pickle
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.config.paths import given_path
from metalab.config.validate import suggest
from metalab.core.errors import UserError
from metalab.core.interfaces import ImagePreparation, Interpolation
from metalab.models.layers import Normalize, convert
from metalab.models.pretrained_classes import pretrained_class_ids


class FrozenBatchNorm(nn.Module):
    """Batch norm by its stored statistics alone, which is exact under torch.func; gain and shift are learned."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, of: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = of.eps, of.weight, of.bias
        self.register_buffer("running_mean", of.running_mean)
        self.register_buffer("running_var", of.running_var)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class FeatureExtractor(nn.Module):
    """A classification net less its last layer: images [N,1,H,W] or [N,3,H,W] to features [N,D,1,1]."""

    def __init__(self, net: nn.Module, head: str) -> None:
        super().__init__()
        self.net, self.head = net, head

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1)).flatten(1)[..., None, None]


@dataclass(frozen=True)
class Torchvision:
    """A classification net of torchvision by its name, its classifier taken off.

    weights: null (random, batch norms converted to BatchStatNorm), a name of torchvision's, or a file with a state
    dictionary of that net; pretrained batch norms keep their running statistics. classes: which classes the weights
    were trained on: imagenet, none, or a text file with a global id a line; null: what torchvision says.
    """

    name: str
    weights: str | None
    classes: str | None

    def __post_init__(self) -> None:
        from torchvision import models  # here, for it takes a second

        names = models.list_models(module=models)
        if self.name not in names:
            raise UserError(
                f"backbone.name={self.name}: torchvision has no such classification net.{suggest(self.name, names)}"
            )
        for key, value in (("weights", self.weights), ("classes", self.classes)):
            if value is not None:
                given_path(value, f"backbone.{key}", {"weights": "DEFAULT", "classes": "imagenet"}[key])
        if self.weights is None and self.classes is not None:
            raise UserError(f"backbone.classes={self.classes} without backbone.weights: random weights saw no class")

    def normalization(self) -> Normalize | None:
        """Return what the weights expect of images in [0,1]; None where they are random."""
        own = self.preparation()
        return None if own is None else Normalize(own.mean, own.std)

    def preparation(self) -> ImagePreparation | None:
        """Return how the images of the weights were prepared; of a file's, as those of torchvision's first weights."""
        if self.weights is None:
            return None
        from torchvision import models

        entries = models.get_model_weights(self.name)
        entry = entries[self.weights] if self._named() else next(iter(entries))
        return ImagePreparation(*_transforms(entry))

    def seen(self) -> set[str]:
        """Return the global ids of the classes that the weights were trained on; UserError where nobody says."""
        if self.weights is not None and not self._named() and self.classes is None:
            raise UserError(
                f"backbone.weights={self.weights}: which classes did they see? Type backbone.classes=imagenet, a text "
                "file with an id a line, or backbone.classes=none where there were none, as in unlabelled data"
            )
        return pretrained_class_ids(self.classes or ("none" if self.weights is None else "imagenet"))

    def build(self, channels: int, size: int) -> nn.Module:
        """Return the net without weights; load fills them in."""
        from torchvision import models

        if channels not in (1, 3):
            raise UserError(f"backbone=torchvision takes grey or RGB images; these have {channels} channels")
        net = models.get_model(self.name, weights=None)
        if "aux_logits" in vars(net):
            vars(net)["aux_logits"] = False  # GoogLeNet and Inception give several outputs in training with them
        head = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
        owner, _, leaf = head.rpartition(".")
        setattr(net.get_submodule(owner), leaf, nn.Identity())
        made = convert(net) if self.weights is None else freeze_batch_norm(net)
        body = FeatureExtractor(made, head)
        try:
            with torch.no_grad():
                body.eval()(torch.zeros(2, channels, size, size))
        except (RuntimeError, AssertionError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise UserError(
                f"backbone.name={self.name} cannot take images of {size}x{size}: {why}. Give another size, as "
                "data.size=224, or another net"
            ) from error
        return body

    def load(self, body: nn.Module) -> None:
        """Fill a body of `build` with the weights; UserError where they cannot be had or do not fit."""
        if self.weights is None or not isinstance(body, FeatureExtractor):
            return
        given = self._downloaded(self.weights) if self._named() else self._read(self.weights)
        own = body.net.state_dict()
        used = {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}
        used = {k: v for k, v in used.items() if not (k.startswith(f"{body.head}.") or "aux" in k.lower())}
        own = {k: v for k, v in own.items() if "aux" not in k.lower()}
        misfits = [k for k in {**own, **used} if k not in own or k not in used or own[k].shape != used[k].shape]
        if misfits:
            raise UserError(
                f"backbone.weights={self.weights} does not fit backbone.name={self.name}: {len(misfits)} tensors "
                f"differ, the first is {misfits[0]}; give the net that the weights belong to"
            )
        body.net.load_state_dict(used, strict=False)

    def _named(self) -> bool:
        from torchvision import models

        return self.weights == "DEFAULT" or self.weights in models.get_model_weights(self.name).__members__

    def _read(self, given_file: str) -> dict[str, Tensor]:
        file = given_path(given_file, "backbone.weights", "/path/to/weights.pt")
        if not file.is_file():
            from torchvision import models

            known = ", ".join(["DEFAULT", *models.get_model_weights(self.name).__members__])
            raise UserError(
                f"backbone.weights={file}: neither a file nor weights that torchvision has of {self.name}: {known}"
            )
        try:
            given = torch.load(file, map_location="cpu", weights_only=True)
            return {str(k): v for k, v in given.items() if isinstance(v, Tensor)}
        except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
            raise UserError(
                f"backbone.weights={file} is not a state dictionary: {(str(error) or 'empty').splitlines()[0]}. Save "
                "one with torch.save(net.state_dict(), file)"
            ) from error

    def _downloaded(self, weights: str) -> dict[str, Tensor]:
        from torchvision import models

        try:
            return dict(models.get_model_weights(self.name)[weights].get_state_dict(progress=False, check_hash=True))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"backbone.weights={weights} of {self.name} could not be downloaded: {error}. Fetch the file "
                "elsewhere and type backbone.weights=/path/to/it backbone.classes=imagenet"
            ) from error


def _transforms(entry: Any) -> tuple[int, int | None, Interpolation, list[float], list[float]]:
    """Return size, resize, interpolation, mean and std of an entry of torchvision's weights."""
    made = entry.transforms()
    [size], [resize] = made.crop_size, made.resize_size
    return size, resize, made.interpolation.value, list(made.mean), list(made.std)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm of a net by StoredNorm; return the net."""
    if isinstance(module, nn.BatchNorm2d):
        return FrozenBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module
