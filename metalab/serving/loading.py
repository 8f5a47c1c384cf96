"""From a run's folder, or a pretrained backbone without one, to what makes classifiers of a person's own classes."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from metalab.algorithms.build import build_algorithm
from metalab.config.experiment import ExperimentConfig
from metalab.config.image_preparation import SIZE, resolve_preparation
from metalab.config.instantiate import build
from metalab.core.device import resolve_device
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Split
from metalab.data.formats.image_decode import decode
from metalab.data.storage.resize import resize_split
from metalab.evaluation.protocols.images import TrainedClassifier
from metalab.evaluation.setup import load_net, measure_statistics
from metalab.evaluation.transductive import refuse_support_pass
from metalab.evaluation.untrained import backbone_words, settings_without_training, untrained_checkpoint
from metalab.models.meta_net import Net
from metalab.models.text_classifier import read_names
from metalab.regularizers.build import build_regularizers
from metalab.serving.classifier import Adaptation, Classifier
from metalab.serving.images import Decode
from metalab.tracking import checkpoint_schema


@dataclass(frozen=True)
class LoadedRun:
    """A run's net, and what its settings say about how it adapts and how it sees images."""

    folder: Path | None  # None: a pretrained backbone, and no run
    config: ExperimentConfig
    saved: dict[str, Any]  # its best checkpoint
    algo_name: str
    adaptation: Adaptation
    notes: list[str]  # what a reader of results must know

    @property
    def words(self) -> str:
        """What is shown in the place of a run's folder."""
        return backbone_words(self.config) if self.folder is None else str(self.folder)

    @property
    def origin(self) -> str:
        """What a file that goes elsewhere says of it: `words` without the folders of this machine."""
        if self.folder is None:
            return backbone_words(self.config, folders=False)
        elsewhere = self.folder.is_absolute() or ".." in self.folder.parts
        return self.folder.name if elsewhere else str(self.folder)

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and side of the images that the net takes."""
        channels, size, _ = self.saved["shape"]
        return channels, size

    @property
    def bn(self) -> str:
        """The batch-norm statistics of predictions."""
        return self.adaptation.bn

    @property
    def preparation(self) -> dict[str, Any]:
        """How image files become what the net takes: the arguments of data.formats.image_decode.decode."""
        channels, size = self.shape
        node = self.config.data if self.folder is None else self.saved["config"]["data"]  # as the net was trained
        prepared = {key: node[key] for key in ("resize", "interpolation") if node.get(key) is not None}
        return {"size": size, "channels": channels, **prepared}

    @property
    def decode(self) -> Decode:
        """Return the reader of image files that gives them as the net takes them."""
        return partial(decode, **self.preparation)

    def trained_adaptation(self) -> tuple[Adaptation, list[str]]:
        """Return what makes the classifier of the classes that the run was trained on, and their names.

        Raises:
            UserError: for a run that trained none, whose classes come from a support.
        """
        names = self.saved.get("label_names") or [each.rpartition(":")[2] for each in self.saved.get("labels", [])]
        if not names:
            raise UserError(
                f"{self.words} knows no classes of its own: give some images of each of yours, support=FOLDER with one "
                "folder a class"
            )
        algorithm: Algorithm = TrainedClassifier(len(names))
        return Adaptation(self.adaptation.net, algorithm, 0, *_plain(self.adaptation)), names

    def trained_classifier(self) -> Classifier:
        """Return the classifier of the classes that the run was trained on; UserError as trained_adaptation's."""
        own, names = self.trained_adaptation()
        channels, size = self.shape
        empty = torch.zeros(0, channels, size, size, device=own.device)
        return own.adapt(empty, torch.zeros(0, dtype=torch.int64), names)

    def other_classes(self, split: str = "val") -> Split:
        """Return a split of the data that the run was made with, its images as the net takes them.

        Raises:
            UserError: where they are not at hand, or there is no run.
        """
        if self.folder is None:
            raise UserError("a pretrained backbone without a run has no data of its own")
        return resize_split(build(self.saved["config"]["data"], "data").load(split), *self.shape)


def _plain(adaptation: Adaptation) -> tuple[Any, ...]:
    return adaptation.loss, adaptation.inner, "running", adaptation.device, adaptation.batch


def load_run(folder: Path | None, config: ExperimentConfig, batch: int, checkpoint: str = "best.pt") -> LoadedRun:
    """Load a run's net, or a pretrained backbone where there is no run.

    Args:
        folder: of the run, with its best.pt; None: the backbone has weights from elsewhere, and nothing is trained.
        config: the run's settings with what the command line changed.
        batch: images that go through the net at once.
        checkpoint: its file in the folder.

    Raises:
        UserError: for a damaged checkpoint, or settings that do not go together.
    """
    device = resolve_device(config.device)
    notes: list[str] = []
    backbone = build(config.backbone, "backbone")
    if folder is None:
        config, note = settings_without_training(config)
        config = resolve_preparation(config, backbone)
        notes += [note] if note else []
        saved = untrained_checkpoint(config, backbone, config.data.get("channels", 3), config.data.get("size", SIZE))
    else:
        saved = checkpoint_schema.load_checked(folder / checkpoint)
    notes += [weights] if (weights := saved["data"].get("weights", "")) else []
    algo, algorithm = build_algorithm(config.algo, config.task.way, test=True)
    terms = build_regularizers(config.reg, algo.steps)
    if config.eval.bn == "target" or config.eval.tent is not None:
        raise UserError(
            "eval.bn=target and eval.tent adapt a net to a target domain for metalab eval, and not for other images: "
            "leave them out"
        )
    bn = config.eval.bn or ("running" if algo.bn == "running" else "support")
    refuse_support_pass(algorithm, algo.name, bn)
    if bn == "batch":
        notes.append("eval.bn=batch: each prediction depends on the images that are classified with it")
    if terms.inner_attack:
        notes.append(f"adapted to supports that {terms.inner_attack} attacked")
    net = cast(Net, load_net(config, backbone, saved).to(device))
    measure_statistics(net, config, saved, bn)
    if unread := read_names(net, backbone, None):
        notes.append(unread)
    adaptation = Adaptation(net, algorithm, algo.steps, algo.loss, terms.inner, bn, device, batch)
    return LoadedRun(folder, config, saved, algo.name, adaptation, notes)
