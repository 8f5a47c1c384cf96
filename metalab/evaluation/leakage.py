"""Whether the tested classes or images are among those that a run has seen."""

from pathlib import Path

from metalab.config.schema import Eval
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.identity.class_ids import seen_unlabelled
from metalab.evaluation.protocols.build import evaluation_protocol


def refuse_trained_on(split: Split, trained: list[str], evaluation: Eval, folder: Path | None) -> list[str]:
    """Return what of the split the checkpoint was trained on; UserError where that is not allowed.

    These are classes, or, where the split's classes are those of the training, images; and images that training saw
    without their labels, as a target's.
    folder: of the run; None: there is none, and it is the backbone's weights that were trained.
    """
    shared, of = evaluation_protocol(split).seen(split, trained, evaluation.split)
    who = folder or "the pretrained backbone"
    if shared and not evaluation.allow_overlap:
        why = f"Their accuracy says nothing about new {of.partition(' ')[2]}"
        _refuse(f"{who} was trained on", shared, of, evaluation, why)
    unlabelled = [file for file, seen in zip(split.files, seen_unlabelled(split, trained), strict=False) if seen]
    if unlabelled and not evaluation.allow_overlap:
        why = "These are no new images of the target; give the data.seed and the data of the training"
        _refuse(f"{who} saw, without their labels,", unlabelled, f"{len(split.images)} images", evaluation, why)
    return shared + [f"{file} (seen without its label)" for file in unlabelled]


def _refuse(which: str, shared: list[str], of: str, evaluation: Eval, why: str) -> None:
    named = ", ".join(shared[:10]) + (f" and {len(shared) - 10} more" if len(shared) > 10 else "")
    raise UserError(
        f"{which} {len(shared)} of the {of} of the {evaluation.split} split: {named}. {why}; eval.allow_overlap=true "
        "goes on and stamps the result"
    )
