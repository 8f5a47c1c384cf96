"""A classifier of a person's own classes, and what can be said of it before an image is classified."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from metalab.config.schema import Predict
from metalab.core.errors import UserError
from metalab.core.text import first_names
from metalab.serving.classifier import Classifier
from metalab.serving.expectation import Expectation, LeftOut, expectation, leave_out, support_temperature
from metalab.serving.images import Decode, Support, read_support, report_unread
from metalab.serving.joint import refuse_reject
from metalab.serving.loading import LoadedRun
from metalab.serving.rejection import Threshold, largest_logit, least_scores, scores_of_known, some_images, threshold


class Origin(Protocol):
    """What a classifier comes from, a run or a file that one was exported to: its name, and how it sees images."""

    @property
    def words(self) -> str: ...
    @property
    def algo_name(self) -> str: ...
    @property
    def bn(self) -> str: ...
    @property
    def decode(self) -> Decode: ...


@dataclass(frozen=True)
class Practice:
    """A classifier, what made it, how good it will be, and where it says that an image is of none of its classes."""

    run: Origin
    classifier: Classifier
    support: Support | None = None  # None: the classes are those that the run was trained on
    expected: Expectation | None = None  # None: no class of the support has two images, or there is no support
    temperature: float = 1.0  # logits are divided by it before the softmax
    threshold: Threshold | None = None  # None: no image is marked
    marked: float | None = None  # the share of images of other classes that are marked, where there are some to try
    notes: list[str] = field(default_factory=list)  # what a reader must know

    def is_known(self, logits: Tensor) -> Tensor:
        """Return which images, by their logits [N,K], are like one of the classes, bool [N]."""
        if self.threshold is None:
            return torch.ones(len(logits), dtype=torch.bool)
        return largest_logit(logits) >= self.threshold.score


def build_practice(run: LoadedRun, given: str | None, asked: Predict, seed: int) -> Practice:
    """Make a run's classifier of a support.

    Args:
        run: the net and how it adapts.
        given: the support's folder as it was typed; None: the classes are those that the run was trained on.
        asked: the settings of predict.
        seed: of heads that are drawn, and of the images of other classes.

    Raises:
        UserError: for a support that does not fit, and predict.reject where nothing can be said about it.
    """
    torch.manual_seed(seed)
    if given is None:
        classifier = run.trained_classifier()
        if asked.reject is not None:
            raise UserError(
                "predict.reject needs a support, whose images say what the classes look like: support=FOLDER"
            )
        return Practice(
            run, classifier, notes=[*run.notes, "no support was given: no accuracy can be expected from it"]
        )
    support = read_support(given, run.decode)
    report_unread(support.unread, asked.strict, f"{len(support.labels) + len(support.unread)} support images")
    return practice_of(run, support, asked, seed)


def practice_of(run: LoadedRun, support: Support, asked: Predict, seed: int) -> Practice:
    """Return the classifier of a support that has been read; see build_practice."""
    refuse_reject(run.adaptation, run.algo_name, asked)
    inputs = run.adaptation.embed(support.images)
    left_out = None
    if not run.adaptation.jointly:  # else the left-out images of one fold would be inferred as if they were a query set
        left_out = leave_out(run.adaptation, inputs, support.labels, support.names)
    classifier = run.adaptation.adapt(inputs, support.labels, support.names)
    first = [] if run.adaptation.jointly else _alone(left_out)
    notes = [*run.notes, *first, *_copies(support)]
    limit, marked = _threshold(run, support, classifier, left_out, asked.reject, seed, notes)
    return Practice(
        run=run,
        classifier=classifier,
        support=support,
        expected=None if left_out is None else expectation(left_out),
        temperature=support_temperature(left_out) if asked.calibrate and left_out is not None else 1.0,
        threshold=limit,
        marked=marked,
        notes=notes,
    )


def _alone(left_out: LeftOut | None) -> list[str]:
    """Say what an estimate from a support leaves out."""
    if left_out is None:
        return ["with one image a class no accuracy can be estimated: give two or more of each"]
    return [f"{left_out.alone} of the classes have one image, and are not in the estimate"] if left_out.alone else []


def _copies(support: Support) -> list[str]:
    """Say which images a support holds twice, which makes an estimate from it too high."""
    found = []
    seen: dict[str, str] = {}
    twice = []
    for digest, file in zip(support.digests, support.files, strict=True):
        if digest in seen:
            twice.append(f"{file} = {seen[digest]}")
        seen.setdefault(digest, file)
    if twice:
        found.append(
            f"the support holds {len(twice)} images twice, so that the estimate is too high: {first_names(twice, 3)}"
        )
    return found


def _threshold(
    run: LoadedRun,
    support: Support,
    classifier: Classifier,
    left_out: LeftOut | None,
    share: float | None,
    seed: int,
    notes: list[str],
) -> tuple[Threshold | None, float | None]:
    """Return where an image counts as of none of the classes, and how many images of other classes that marks."""
    if share is None:
        return None, None
    try:
        others = run.other_classes()
    except UserError as error:
        notes.append(f"how many images of other classes are marked is not known: {str(error).splitlines()[0]}")
        others = None
    few = left_out is None or len(left_out.labels) < least_scores(share)
    known = None
    if few and others is not None:
        known = scores_of_known(run.adaptation, others, len(support.names), min(support.count), seed)
    limit = threshold(left_out, share, known)
    if others is None:
        return limit, None
    scores = largest_logit(classifier.logits(some_images(others, seed)))
    return limit, float((scores < limit.score).double().mean())
