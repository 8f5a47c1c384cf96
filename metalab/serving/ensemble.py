"""Several runs as one model: each adapts to the support, and the logits are the log of their mean probability."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metalab.config.experiment import ExperimentConfig
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.evaluation.ensemble.combine import mean_probability
from metalab.evaluation.ensemble.members import members_of
from metalab.serving.classifier import Adaptation, Classifier, Predict
from metalab.serving.loading import LoadedRun, load_run


@dataclass(frozen=True)
class EnsembleAdaptation(Adaptation):
    """How several nets become one classifier; its fields beside the members are those of the first."""

    members: tuple[Adaptation, ...] = ()

    @property
    def jointly(self) -> bool:
        """Whether a member infers all images of one call together."""
        return any(member.jointly for member in self.members)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return the images uint8 [N,C,H,W] as they are: each member sees them in its own way."""
        return images

    @torch.no_grad()
    def adapt(self, inputs: Tensor, labels: Tensor, names: list[str]) -> Classifier:
        """Return the classifier that a support makes of all members; see Adaptation.adapt."""
        made = [member.adapt(member.embed(inputs), labels, names) for member in self.members]
        return mean_classifier(made, names)


@dataclass(frozen=True)
class LoadedEnsemble(LoadedRun):
    """Several runs' nets; its fields beside the members are those of the first."""

    members: tuple[LoadedRun, ...] = ()

    @property
    def words(self) -> str:
        """What is shown in the place of a run's folder."""
        return self._mean_of([member.words for member in self.members])

    @property
    def origin(self) -> str:
        """What a file that goes elsewhere says of it."""
        return self._mean_of([member.origin for member in self.members])

    def _mean_of(self, names: list[str]) -> str:
        return f"the mean of {len(names)} nets: {', '.join(names)}"

    def trained_adaptation(self) -> tuple[Adaptation, list[str]]:
        """Return what makes the classifier of the classes that all members were trained on, and their names."""
        made = [member.trained_adaptation() for member in self.members]
        for member, (_, names) in zip(self.members, made, strict=True):
            if names != made[0][1]:
                raise UserError(
                    f"ensemble=mean: {member.words} was trained on the classes {format_value(names[:3])} ..., and "
                    f"{self.members[0].words} on {format_value(made[0][1][:3])} ...: their probabilities are of "
                    "different classes; give runs of the same ones, or a support"
                )
        first = made[0][0]
        return _ensemble_of(first, tuple(each for each, _ in made)), made[0][1]


def load_model(runs: Sequence[tuple[Path | None, ExperimentConfig]], batch: int) -> LoadedRun:
    """Load a run, or with ensemble=mean several as one.

    Args:
        runs: folders (None: a pretrained backbone without a run), and the settings of the command for each.
        batch: images that go through a net at once.

    Raises:
        UserError: as load_run, and where runs see images in different ways, or ensemble is another than mean.
    """
    how = runs[0][1].whole.get("ensemble")
    if how is None:
        return load_run(*runs[0], batch)
    if how != "mean":
        raise UserError(
            f"ensemble={format_value(how)}: one model of several nets has their mean probability: ensemble=mean"
        )
    members = tuple(load_run(m.folder, m.config, batch, m.checkpoint) for m in members_of(runs))
    first = members[0]
    for member in members[1:]:
        if member.preparation != first.preparation:
            raise UserError(
                f"ensemble=mean: {member.words} takes images as {format_value(member.preparation)}, and {first.words} "
                f"as {format_value(first.preparation)}: give runs with the same data.size and preparation"
            )
    return LoadedEnsemble(
        folder=first.folder,
        config=first.config,
        saved=first.saved,
        algo_name=" + ".join(dict.fromkeys(member.algo_name for member in members)),
        adaptation=_ensemble_of(first.adaptation, tuple(member.adaptation for member in members)),
        notes=list(dict.fromkeys(note for member in members for note in member.notes)),
        members=members,
    )


def refuse_parts_of_ensemble(run: LoadedRun, what: str, name: str) -> None:
    """Raise UserError for what of an ensemble is no single function of images: it has no one set of weights."""
    if not isinstance(run, LoadedEnsemble):
        return
    if what != "adapted":
        raise UserError(f"what={what} with ensemble=mean: an ensemble is exported as a classifier: type what=adapted")
    if name == "safetensors":
        raise UserError("format=safetensors with ensemble=mean: it holds one net's weights: format=onnx or format=pt2")


def mean_classifier(members: Sequence[Classifier], names: list[str]) -> Classifier:
    """Return the classifier whose logits are the log of the members' mean probability, [N,K]."""

    def predict(images: Tensor) -> Tensor:
        return mean_probability([member.logits(images) for member in members])

    traced: list[Predict] = [member.traceable for member in members if member.traceable is not None]

    def traceable(images: Tensor) -> Tensor:
        shares = torch.stack([each(images).log_softmax(-1) for each in traced])
        return shares.logsumexp(0) - math.log(len(traced))

    whole = traceable if len(traced) == len(members) else None
    jointly = any(member.jointly for member in members)
    return Classifier(names, predict, _unchanged, traceable=whole, jointly=jointly)


def _unchanged(images: Tensor) -> Tensor:
    return images


def _ensemble_of(first: Adaptation, members: tuple[Adaptation, ...]) -> EnsembleAdaptation:
    fields = {name: vars(first)[name] for name in Adaptation.__dataclass_fields__}
    return EnsembleAdaptation(**fields, members=members)
