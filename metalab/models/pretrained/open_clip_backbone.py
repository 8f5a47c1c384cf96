"""Encoders of CLIP: of images as backbones, of texts for class names (Radford et al. 2021; Ilharco et al. 2021)."""

import contextlib
import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
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
from metalab.models.pretrained.weights_file import fill

BLOCK = re.compile(r"transformer\.resblocks\.\d+\.|trunk\.(blocks|stages)\.\d+\.|layer\d+\.")


@dataclass(frozen=True)
class OpenCLIP:
    """A net of open_clip by its name: images to the features that its texts have, too.

    weights: null (random), one of open_clip's tags of that net, or a file with a state dictionary of both encoders.
    classes, trainable, lora, lora_on and lora_alpha: as Torchvision has them; of a tag's weights it is unknown what
    they saw, but for what is typed. Blocks are those of the image encoder's transformer, or the stages of a
    convolutional one. The text encoder learns where a method adapts it, and then by lora alone.
    """

    name: str
    weights: str | None
    classes: str | list[str] | None
    trainable: Trainable = "all"
    lora: int | None = None
    lora_on: LoRALayers = "all"
    lora_alpha: float | None = None

    def __post_init__(self) -> None:
        names = _open_clip().list_models()
        if self.name not in names:
            raise UserError(f"backbone.name={self.name}: open_clip has no such net.{suggest(self.name, names)}")
        if self.weights is not None:
            given_path(self.weights, "backbone.weights", "/path/to/weights.pt")
        check_classes(self.classes, self.weights)

    def normalization(self) -> Normalize | None:
        """Return what the weights expect of images in [0,1]; None where they are random."""
        return None if self.weights is None else Normalize(self.preparation().mean, self.preparation().std)

    def preparation(self) -> ImagePreparation:
        """Return how the net's images are prepared: all of its nets take images of one size."""
        from open_clip.transform import PreprocessCfg

        given = {} if self.weights is None else _open_clip().get_pretrained_cfg(self.name, self.weights)
        own = {key: given[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in given}
        made: Any = PreprocessCfg(**own)
        size = _open_clip().get_model_config(self.name)["vision_cfg"]["image_size"]
        resize = size if made.resize_mode == "shortest" else None  # else: all of the image, stretched
        interpolation = "bilinear" if made.interpolation == "bilinear" else "bicubic"
        return ImagePreparation(size, resize, interpolation, list(made.mean), list(made.std))

    def seen(self) -> set[str]:
        """Return the global ids of the classes that the weights were trained on; UserError where nobody says."""
        if self.weights is not None and self.classes is None and not self._is_tag():
            refuse_unsaid(self.weights)
        return pretrained_class_ids(self._classes())

    def note(self) -> str:
        """Return what every result of the weights must say; empty: nothing."""
        return NOTE if self._classes() == UNKNOWN else ""

    def build(self, channels: int, size: int) -> nn.Module:
        """Return the image encoder without weights; load fills them in."""
        net = self._whole(None).visual
        freeze_blocks(net, _blocks(net), self.trainable, self.name)
        add_lora(net, LoRA(self.lora, self.lora_on, self.lora_alpha), self.weights is not None, self.name)
        pretrained, shape = self.weights is not None, (channels, size)
        return feature_extractor(net, (), pretrained, f"backbone.name={self.name}", shape)

    def load(self, body: nn.Module) -> None:
        """Fill a body of `build` with the weights; UserError where they cannot be had or do not fit."""
        if self.weights is not None and isinstance(body, FeatureExtractor):
            fill(body, self._whole(self._source()).visual.state_dict(), self.weights, self.name)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Return the text encoder's features [N,D] of N texts, on the CPU; UserError without weights."""
        if self.weights is None:
            raise UserError("class names are read by a trained text encoder: type backbone.weights")
        net, tokens = self._whole(self._source()).eval(), _open_clip().get_tokenizer(self.name)(texts)
        return torch.cat([net.encode_text(some) for some in tokens.split(64)])

    def text_encoder(self) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
        """Return the text encoder, of which nothing learns but what LoRA adds, as to the image encoder.

        Returns:
            What makes features [N,D] of tokens int64 [N,L]. And what makes these of N texts.

        Raises:
            UserError: without weights.
        """
        if self.weights is None:
            raise UserError("class names are read by a trained text encoder: type backbone.weights")
        net = self._whole(self._source()).eval()
        del net.visual
        net.requires_grad_(self.lora is not None)
        add_lora(net, LoRA(self.lora, self.lora_on, self.lora_alpha), True, self.name)
        return _TextTower(net), _open_clip().get_tokenizer(self.name)

    def _whole(self, weights: str | None) -> Any:
        """Return both encoders, with the activation of the weights' own; UserError where they cannot be had."""
        quick = bool(_open_clip().get_pretrained_cfg(self.name, self.weights or "").get("quick_gelu"))
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.CRITICAL)  # open_clip says on the root logger what it loads
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                made: Any = _open_clip().create_model(
                    self.name,
                    pretrained=weights,
                    pretrained_text=False,
                    force_quick_gelu=quick,
                    device=torch.get_default_device(),
                )
        except Exception as error:  # of the network, the hub, the file: each library on the way has its own
            tags = ", ".join(_open_clip().list_pretrained_tags_by_model(self.name))
            raise UserError(
                f"backbone.weights={weights} of backbone.name={self.name} could not be had: "
                f"{(str(error) or type(error).__name__).splitlines()[0]} Give a file, or a tag of open_clip's: {tags}"
            ) from error
        finally:
            root.setLevel(level)
        if hasattr(made.visual, "output_tokens"):
            made.visual.output_tokens = False  # CoCa's gives every position as well
        return made

    def _is_tag(self) -> bool:
        return bool(_open_clip().get_pretrained_cfg(self.name, self.weights))

    def _source(self) -> str:
        """Return the weights as open_clip takes them: a tag, or a file with its ~ in full."""
        assert self.weights is not None
        return self.weights if self._is_tag() else str(given_path(self.weights, "backbone.weights", "/path/to/it"))

    def _classes(self) -> str | list[str]:
        return self.classes or ("none" if self.weights is None else UNKNOWN)


class _TextTower(nn.Module):
    """A CLIP without its image encoder, of which forward is that of texts."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net.encode_text(tokens)


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise UserError("backbone=open_clip needs the package open_clip: type pip install 'metalab[clip]'") from None
    return open_clip


def _blocks(net: nn.Module) -> list[list[str]]:
    """Return the parameters of an image encoder, by name: those around its blocks with the first and the last."""
    found: dict[str, list[str]] = {}
    around: dict[bool, list[str]] = {False: [], True: []}  # before and behind
    for name, _ in net.named_parameters():
        if (block := BLOCK.match(name)) is not None:
            found.setdefault(block[0], []).append(name)
        else:
            around[bool(found) or name == "proj"].append(name)  # the projection stands before all in torch's order
    blocks = list(found.values()) or [[]]
    blocks[0], blocks[-1] = around[False] + blocks[0], blocks[-1] + around[True]
    return blocks
