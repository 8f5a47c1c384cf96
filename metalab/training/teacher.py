"""The trained run that a student learns from (reg=distill): loaded, checked against the student, and asked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from metalab.algorithms.build import AlgorithmSettings, build_algorithm
from metalab.algorithms.objectives.build import at_way
from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.config.experiment import ExperimentConfig, read_config
from metalab.config.instantiate import build
from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Batch, Episode, Learner, Loss, Split
from metalab.core.iteration import last
from metalab.data.identity import class_ids
from metalab.engines.buffers import learnable
from metalab.engines.layer_norm import exact_layer_norm
from metalab.engines.vectorized import FunctionalLearner
from metalab.evaluation.setup import load_net
from metalab.models.layers import running_statistics
from metalab.regularizers.build import build_regularizers
from metalab.tracking import checkpoint_schema
from metalab.tracking.run_folder import find_run
from metalab.training.warm_start import refuse_leaked_validation, unlabelled_note

KEY = "reg.distill.teacher"


@dataclass(frozen=True)
class LoadedTeacher:
    """A run's best checkpoint as a teacher: in evaluation mode, without a gradient, on either engine.

    Its learner is the vectorized engine's, a function of constant tensors: it takes inner steps under vmap and without.
    """

    folder: Path
    digest: str  # of the file, by which a resumed run knows it again
    saved: dict[str, Any]
    net: nn.Module
    algorithm: Algorithm
    settings: AlgorithmSettings
    inner: Loss
    bn: str
    classifies: bool  # asked for the logits of its own classifier, body and head, and not adapted to a support

    @property
    def features(self) -> int:
        """Return D, the length of its flattened features."""
        channels, height, width = self.saved["shape"]
        held = next(iter(self.net.buffers()))
        return self.embed(held.new_zeros(2, channels, height, width)).shape[1]

    def logits(self, episode: Episode, way: int, steps: int | None = None) -> Tensor:
        """Return its logits [N,K] of an episode's queries, after it has adapted to the support where there is one.

        steps: inner steps; None: as many as its own run is evaluated with.
        """
        support, query = episode
        steps = self.settings.steps if steps is None else steps
        with self._constant() as learner:
            if self.classifies:
                return learner(query.x)
            model = last(at_way(self.algorithm, way).adapt(learner, support, self.inner, steps))
            return PREDICTIONS[self.bn](model, support.x, query.x)

    def embed(self, x: Tensor) -> Tensor:
        """Return its flattened features [N,D] of images [N,C,H,W]."""
        with self._constant() as learner:
            return learner.features(x).flatten(1)

    @contextmanager
    def _constant(self) -> Iterator[Learner]:
        learned = learnable(self.net)
        frozen: dict[str, Tensor] = {n: p.detach() for n, p in self.net.named_parameters() if n not in learned}
        constants = {n: p.detach() for n, p in learned.items()}
        stored = running_statistics() if self.bn == "running" else nullcontext()
        with torch.no_grad(), stored, exact_layer_norm(self.net):
            yield cast(Learner, FunctionalLearner(self.net, constants, frozen, dict(self.net.named_buffers())))

    @property
    def note(self) -> str:
        """What a referee of the student's results must know."""
        return (
            f"distilled from {self.folder} (algo={self.settings.name}, step {self.saved['state']['step']}), whose "
            "training classes count as seen"
        )

    def seen(self, data: dict[str, Split]) -> tuple[set[str], set[str]]:
        """Return the ids of all that it was trained on, and the notes on it.

        Raises:
            UserError: where validation classes are among them: they would choose best.pt.
        """
        known, held = set(self.saved["classes"]), self.saved["data"]
        same = data["train"].by_image and held["val"] == class_ids.fingerprint(data["val"])
        if not same:  # else its classes are the same, and its images those that it did not train on
            refuse_leaked_validation(data["val"], known, f"{KEY}={self.folder}")
        return known, {self.note, held.get("weights", ""), unlabelled_note("distilled from a run", held)}


def load_teacher(run: str, train: Split, task: Task, algo: AlgorithmSettings, device: torch.device) -> LoadedTeacher:
    """Load a run's best checkpoint and check it against the student.

    Args:
        run: the folder, or latest; empty: none was named.
        train: the student's training split.
        task: the sizes of the student's training.
        algo: how the student is trained.
        device: where the student is trained.

    Raises:
        UserError: where there is no such run, it takes other images, knows other classes or predicts another number.
    """
    if not run:
        raise UserError(
            f"{KEY}=null: whom does it learn from? Type {KEY}=RUN, a folder of metalab train, or train.generations=2 "
            "for a teacher that is trained before"
        )
    refuse_support_alone(algo)
    folder = _found(run)
    saved = checkpoint_schema.load_checked(folder / "best.pt")
    if saved["shape"] != list(train.images.shape[1:]):
        raise UserError(
            f"{KEY}={run}: it takes images of shape {saved['shape']}, and these have {list(train.images.shape[1:])}; "
            "choose the same data.size and channels, or another teacher"
        )
    made = _built(folder, saved, read_config(DictConfig(saved["config"])), task, algo, device)
    if made.classifies:
        _refuse_other_classifier(made, train)
    else:
        _refuse_other_way(made, train, task)
    return made


def refuse_support_alone(algo: AlgorithmSettings) -> None:
    """Raise UserError for a student that learns from no query, on which it would be compared with its teacher."""
    if algo.objective_traits.reads == "support":
        raise UserError(f"reg.distill compares predictions on queries, and algo={algo.name} learns from the support")


def refuse_own_folder(reg: dict[str, Any], out: Path) -> None:
    """Raise UserError where a run would learn from what it writes itself."""
    run = (reg.get("distill") or {}).get("teacher")
    if run and Path(run).expanduser().resolve() == out.resolve():
        raise UserError(
            f"{KEY}={run} is the folder of this run itself: give the student another, as "
            "hydra.run.dir=outputs/train/student"
        )


def refuse_other_teacher(teacher: LoadedTeacher, saved: dict[str, Any]) -> None:
    """Raise UserError where a resumed run would go on with another teacher than it began with."""
    if saved["data"].get("teacher") != teacher.digest:
        raise UserError(
            f"{KEY}={teacher.folder}: its best.pt is not the one that the run began with; give the teacher as it was, "
            "or start a new run"
        )


def _found(run: str) -> Path:
    try:
        return find_run(run)
    except UserError as error:
        raise UserError(f"{KEY}={run}: {error}") from None


def _built(
    folder: Path,
    saved: dict[str, Any],
    config: ExperimentConfig,
    task: Task,
    student: AlgorithmSettings,
    device: torch.device,
) -> LoadedTeacher:
    """Return the teacher as its own run is evaluated, on the device."""
    net = load_net(config, build(config.backbone, "backbone"), saved).to(device).eval()
    settings, algorithm = build_algorithm(config.algo, task.train_way or task.way, test=True)
    inner = build_regularizers(config.reg, settings.steps).inner(settings.loss)
    classifies = student.objective_traits.classifies
    bn = "running" if classifies else config.eval.bn or settings.bn
    digest = hashlib.sha256((folder / "best.pt").read_bytes()).hexdigest()
    return LoadedTeacher(folder, digest, saved, net, algorithm, settings, inner, bn, classifies)


def _refuse_other_classifier(teacher: LoadedTeacher, train: Split) -> None:
    """Raise UserError unless the teacher is a classifier of the student's training classes, in their order."""
    saved = teacher.saved
    if not teacher.settings.objective_traits.classifies or not hasattr(teacher.net, "head"):
        raise UserError(
            f"{KEY}={teacher.folder}: algo={teacher.settings.name} has no head for the {len(train.ids)} training "
            "classes, and this student is a classifier of them: give a run of such a classifier, as algo=baseline"
        )
    same = saved["head_classes"] == train.ids if "head_classes" in saved else None
    if same is None:  # an older run: of the same images of the same classes
        same = saved["data"]["train"] == class_ids.fingerprint(train)
    if not same:
        raise UserError(
            f"{KEY}={teacher.folder}: its head has other classes than the {len(train.ids)} of this training, or in "
            "another order, so that its predictions say nothing of these; train both on the same classes"
        )


def _refuse_other_way(teacher: LoadedTeacher, train: Split, task: Task) -> None:
    """Raise UserError where the teacher's head does not fit the student's episodes: before inner steps, on blanks."""
    way, shot = task.train_way or task.way, 2
    device = next(iter(teacher.net.buffers())).device
    blank = torch.zeros(way * shot, *train.images.shape[1:], device=device)
    support = Batch(blank, torch.arange(way, device=device).repeat(shot), blank[:0])
    found = teacher.logits(Episode(support, support), way, steps=0).shape[-1]
    if found != way:
        raise UserError(
            f"{KEY}={teacher.folder}: its head was learned for {found} classes and the student trains on {way}: give "
            f"task.train_way={found}, or a teacher that takes any way, as of algo=protonet"
        )
