"""Whether the tested classes or images are among those that a run has seen."""

from pathlib import Path

from metalab.config.schema import Eval
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.identity.class_ids import seen_classes, seen_images


def refuse_trained_on(split: Split, trained: list[str], evaluation: Eval, folder: Path | None) -> list[str]:
    """Return what of the split the checkpoint was trained on; UserError where that is not allowed.

    These are classes, or, where the split's classes are those of the training (classification.check_run), images.
    folder: of the run; None: there is none, and it is the backbone's weights that were trained.
    """
    images = split.by_image and evaluation.split == "test"
    if images:
        shared = [file for file, seen in zip(split.files, seen_images(split, trained), strict=False) if seen]
    else:
        shared = seen_classes(split, trained)
    if shared and not evaluation.allow_overlap:
        named = ", ".join(shared[:10]) + (f" and {len(shared) - 10} more" if len(shared) > 10 else "")
        what, of = ("images", len(split.images)) if images else ("classes", len(set(split.ids)))
        raise UserError(
            f"{folder or 'the pretrained backbone'} was trained on {len(shared)} of the {of} {what} of the "
            f"{evaluation.split} split: {named}. Their accuracy says nothing about new {what}; eval.allow_overlap=true "
            "goes on and stamps the result"
        )
    return shared
