"""Any of timm's nets as a backbone (Wightman 2019): from scratch, or with weights that others trained."""

import logging
import re
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
from metalab.models.pretrained.trainable_blocks import Trainable, freeze_blocks
from metalab.models.pretrained.weights_file import fill, read_state_dict

logger = logging.getLogger("metalab")
DEFAULT = "default"
# Parts of a tag that name more than ImageNet's 1000 classes, or a net trained on more that was fine-tuned on them.
MORE = re.compile(r"ft|jft|ig1b|in12k|in21k|in22k|yfcc.*|laion.*|webli|swag|seer|ssld|clip|openai")


@dataclass(frozen=True)
class Timm:
    """A net of timm by its name, its classifier taken off; features as the net pools them.

    weights: null (random, batch norms converted to BatchStatNorm), default (timm's own, of the tag in the name), or a
    file with a state dictionary of that net; pretrained batch norms keep their running statistics. classes: which
    classes the weights were trained on, as Torchvision has them; null: imagenet where the tag of timm's weights says so
    and nothing else, and unknown otherwise. trainable: all, none, or how many of the last of timm's groups of layers
    learn. checkpointing: activations are computed again in the backward pass, not kept (Chen et al. 2016). lora: the
    rank of additions that learn in the place of those groups' weights, with lora_on and lora_alpha as LoRA has them
    (lora.py); null: the weights themselves.
    """

    name: str
    weights: str | None
    classes: str | list[str] | None
    trainable: Trainable = "all"
    checkpointing: bool = False
    lora: int | None = None
    lora_on: LoRALayers = "all"
    lora_alpha: float | None = None

    def __post_init__(self) -> None:
        timm = _timm()
        base = self.name.partition(".")[0]
        if not timm.is_model(base):
            raise UserError(f"backbone.name={self.name}: timm has no such net.{suggest(base, timm.list_models())}")
        try:
            self._config()
        except RuntimeError as error:
            tags = [each.partition(".")[2] for each in timm.list_models(f"{base}.*", pretrained=True)]
            raise UserError(f"backbone.name={self.name}: {error} timm has {', '.join(tags) or 'none'}") from error
        if self.weights is not None:
            given_path(self.weights, "backbone.weights", DEFAULT)
        check_classes(self.classes, self.weights)

    def normalization(self) -> Normalize | None:
        """Return what the weights expect of images in [0,1]; None where they are random."""
        own = self.preparation()
        return None if own is None or self.weights is None else Normalize(own.mean, own.std)

    def preparation(self) -> ImagePreparation | None:
        """Return how timm prepares the net's images; None for random weights of a net that takes any size."""
        from timm.data import resolve_data_config

        config = self._config()
        if self.weights is None and not config.fixed_input_size:
            return None
        data = resolve_data_config(pretrained_cfg=config.to_dict())
        _, height, size = data["input_size"]
        if height != size:
            raise UserError(f"backbone.name={self.name} takes images of {height}x{size}, and metalab has square ones")
        resize = int(size / data["crop_pct"]) if data["crop_mode"] == "center" else None  # else: all, stretched
        interpolation = "bilinear" if data["interpolation"] == "bilinear" else "bicubic"
        return ImagePreparation(size, resize, interpolation, list(data["mean"]), list(data["std"]))

    def seen(self) -> set[str]:
        """Return the global ids of the classes that the weights were trained on; UserError where nobody says."""
        if self.weights not in (None, DEFAULT) and self.classes is None:
            refuse_unsaid(self.weights)
        return pretrained_class_ids(self._classes())

    def note(self) -> str:
        """Return what every result of the weights must say; empty: nothing."""
        return NOTE if self._classes() == UNKNOWN else ""

    def build(self, channels: int, size: int) -> nn.Module:
        """Return the net without weights; load fills them in."""
        net = self._made(size)
        for module in net.modules():
            if "fused_attn" in vars(module):
                vars(module)["fused_attn"] = False  # torch's fused attention has no second derivative, and no vmap
        freeze_blocks(net, _groups(net, self.name) if self.trainable != "all" else [], self.trainable, self.name)
        add_lora(net, LoRA(self.lora, self.lora_on, self.lora_alpha), self.weights is not None, self.name)
        if self.checkpointing:
            _checkpoint(net, self.name)
        heads = tuple({each.partition(".")[0] for each in _listed(net.pretrained_cfg.get("classifier"))})
        pretrained, shape = self.weights is not None, (channels, size)
        return feature_extractor(net, heads, pretrained, f"backbone.name={self.name}", shape)

    def load(self, body: nn.Module) -> None:
        """Fill a body of `build` with the weights; UserError where they cannot be had or do not fit."""
        if self.weights is not None and isinstance(body, FeatureExtractor):
            size = body.size
            given = self._downloaded(size) if self.weights == DEFAULT else self._read(self.weights, size)
            fill(body, given, self.weights, self.name)

    def _made(self, size: int, **weights: Any) -> Any:
        """Return timm's net for images of a size, which it is told where the net was made for another one alone.

        weights: where from, as timm takes it, resampled to the size as timm does it; none: random.
        """
        config = self._config()
        own, more = config.input_size[-1], {}
        if config.fixed_input_size and size != own:
            more = {"img_size": size}
        try:
            return _timm().create_model(self.name, num_classes=0, **weights, **more)
        except (TypeError, AssertionError, ValueError, RuntimeError, ArithmeticError) as error:
            if weights or not more:
                raise
            raise UserError(
                f"backbone.name={self.name} was made for images of {own}x{own} and cannot be for {size}x{size}: "
                f"{error} Type data.size={own}"
            ) from error

    def _config(self) -> Any:
        return _timm().get_pretrained_cfg(self.name)

    def _classes(self) -> str | list[str]:
        if self.weights is None:
            return "none"
        return self.classes or ("imagenet" if is_imagenet_alone(self._config().tag) else UNKNOWN)

    def _read(self, given_file: str, size: int) -> dict[str, Tensor]:
        file = given_path(given_file, "backbone.weights", "/path/to/weights.safetensors")
        if not file.is_file():
            raise UserError(f"backbone.weights={file}: neither a file nor {DEFAULT}, timm's own weights of {self.name}")
        given, config = read_state_dict(file), self._config()
        if not config.fixed_input_size or size == config.input_size[-1]:
            return given
        try:
            return self._made(size, pretrained=True, pretrained_cfg_overlay={"file": str(file)}).state_dict()
        except RuntimeError as error:
            raise UserError(
                f"backbone.weights={file} does not fit backbone.name={self.name}: {str(error).splitlines()[0]}; give "
                "the net that the weights belong to"
            ) from error

    def _downloaded(self, size: int) -> dict[str, Tensor]:
        if not self._config().has_weights:
            raise UserError(
                f"backbone.weights={DEFAULT}: timm has no weights of {self.name}; type backbone.weights=null, a file, "
                "or another backbone.name"
            )
        logger.info(f"weights of {self.name}: from timm's cache, or where timm has them from")
        hub = logging.getLogger("huggingface_hub")
        level = hub.level
        hub.setLevel(logging.CRITICAL)  # what it says at each try is said once, below
        try:
            return self._made(size, pretrained=True).state_dict()
        except UserError:
            raise
        except Exception as error:  # of the network, the hub, the file: each library on the way has its own
            raise UserError(
                f"backbone.weights={DEFAULT} of {self.name} could not be had: {str(error).splitlines()[0]} Fetch the "
                "file elsewhere and type backbone.weights=/path/to/it and backbone.classes"
            ) from error
        finally:
            hub.setLevel(level)


def is_imagenet_alone(tag: str) -> bool:
    """Return whether a tag of timm's weights, as a1_in1k, names ImageNet's 1000 classes and no other data."""
    parts = tag.split("_")
    return "in1k" in parts and not any(MORE.fullmatch(part) for part in parts)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("backbone=timm needs the package timm: type pip install 'metalab[timm]'") from None
    return timm


def _listed(classifier: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (classifier,) if isinstance(classifier, str) else classifier or ()


def _groups(net: Any, name: str) -> list[list[str]]:
    """Return the names of the parameters of each of timm's coarse groups of layers: the stem, each stage or block."""
    from timm.models import group_parameters

    if not hasattr(net, "group_matcher"):
        raise UserError(f"backbone.trainable: timm does not say which blocks backbone.name={name} has; type all")
    return [list(group) for _, group in sorted(group_parameters(net, net.group_matcher(coarse=True)).items())]


def _checkpoint(net: Any, name: str) -> None:
    try:
        net.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        raise UserError(
            f"backbone.checkpointing=true: backbone.name={name} has no gradient checkpointing; type false"
        ) from None
