"""A new training from the weights of an earlier run."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metalab.config.schema import Train
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.identity import class_ids
from metalab.data.sampling.class_order import Labels
from metalab.models.parametrizations import is_addition, plain_names
from metalab.tracking import checkpoint_schema
from metalab.tracking.run_folder import find_run

logger = logging.getLogger("metalab")
SAME = "Give the split that it was trained with"


def kept_labels(train: Train, saved: Mapping[str, Any] | None) -> Labels | None:
    """Return the classes that stay in the head with train.keep_classes=true, none of a run on episodes; None: without.

    saved: the checkpoint that is resumed, which has them already; None: a new run, whose train.init has them.
    """
    if not train.keep_classes:
        return None
    if saved is None and train.init is None:
        raise UserError("train.keep_classes=true keeps the classes of another run's classifier: type train.init=RUN")
    if saved is None:
        saved = checkpoint_schema.load_checked(find_run(str(train.init)) / "best.pt")
    return Labels(saved.get("labels", []), saved.get("label_names", []))


def warm_start(net: nn.Module, run: str, kept: int = 0) -> tuple[set[str], dict[str, str]]:
    """Load the weights of a run's best checkpoint into net; return the ids it carries, and what it says of its data.

    The body must fit; a part of the algorithm's that is not there, or has another shape, starts afresh and is named.
    kept: how many classes of that run's head stay; where this one has more, the others' rows start afresh.
    """
    folder = find_run(run)
    saved = checkpoint_schema.load_checked(folder / "best.pt")
    own, now = net.state_dict(), plain_names(net)
    given: dict[str, Tensor] = {now.get(str(k), str(k)): v for k, v in saved["net"].items()}
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    grown = {k: _with_rows(own[k], v) for k, v in given.items() if kept and k in own and _grows(k, own[k], v, kept)}
    fits |= grown
    misfits = [k for k in {**own, **given} if k.startswith("body.") and k not in fits and not is_addition(k)]
    if any(map(is_addition, given)) and not any(map(is_addition, own)):
        raise UserError(
            f"train.init={run}: its body has what this net has no place for, the scales of algo=mtl or what "
            "backbone.lora adds: type those of that run's config.yaml"
        )
    if misfits:
        raise UserError(
            f"train.init={run}: its backbone {format_value(saved['config']['backbone'])} on images of shape "
            f"{saved['shape']} does not fit this one; {len(misfits)} tensors differ, the first is {misfits[0]}. "
            "Choose the same backbone, data.size and channels as that run's config.yaml"
        )
    net.load_state_dict(own | fits)
    afresh, unused = ({_shown(k) for k in keys if k not in fits} for keys in (own, given))
    logger.info(
        f"starts from {folder} after its step {saved['state']['step']}"
        + (f"; its {kept} classes stay in the head" if grown else "")
        + (f"; afresh: {', '.join(sorted(afresh))}" if afresh else "")
        + (f"; not taken: {', '.join(sorted(unused - afresh))}" if unused - afresh else "")
    )
    return set(saved["classes"]), saved["data"]


def _shown(key: str) -> str:
    return "what is added to the body's weights" if is_addition(key) else key.partition(".")[0]


def unlabelled_note(what: str, held: Mapping[str, Any]) -> str:
    """Return what a referee must know of a run that saw a target's images, in what the results of another come from.

    what: that other run's relation to it, "begun from a run". held: what the run says of its data.
    """
    return f"{what} trained beside {held['unlabelled']}" if held.get("unlabelled") else ""


def _grows(name: str, own: Tensor, given: Tensor, kept: int) -> bool:
    """Whether a tensor of the head has a row a class, and now more of them."""
    rows = name.startswith("head.") and own.dim() > 0 and given.shape[:1] == (kept,)
    return rows and len(own) > kept and own.shape[1:] == given.shape[1:]


def _with_rows(own: Tensor, given: Tensor) -> Tensor:
    return torch.cat([given, own[len(given) :]])


def refuse_leaked(val: Split, known: set[str], source: str, instead: str = SAME) -> None:
    """Raise UserError where what validation is made of, images or classes, was trained on.

    Args:
        val: the validation split.
        known: the ids of all that was trained on.
        source: where, in words.
        instead: what is to be done, in words.
    """
    (refuse_leaked_images if val.by_image else refuse_leaked_validation)(val, known, source, instead)


def refuse_leaked_images(val: Split, known: set[str], source: str, instead: str = SAME) -> None:
    """Raise UserError where validation images were trained on by the warm start, whose classes may be the same.

    As for refuse_leaked_validation, images that it saw without their labels are among these.
    """
    if shared := [file for file, seen in zip(val.files, class_ids.seen_images(val, known), strict=False) if seen]:
        raise UserError(
            f"{source} was trained on {len(shared)} of the {len(val.images)} validation images, {shared[0]} the first. "
            + instead
        )
    _refuse_unlabelled(val, known, source)


def refuse_leaked_validation(val: Split, known: set[str], source: str, instead: str = SAME) -> None:
    """Raise UserError where validation classes were trained on by the warm start: they would choose best.pt."""
    shared = class_ids.seen_classes(val, known)
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise UserError(
            f"{source} was trained on {len(shared)} of the {len(set(val.ids))} validation classes: "
            f"{', '.join(shared[:5])}{more}. {instead}"
        )
    _refuse_unlabelled(val, known, source)


def _refuse_unlabelled(val: Split, known: set[str], source: str) -> None:
    unlabelled = class_ids.seen_unlabelled(val, known)
    if shared := [file for file, seen in zip(val.files, unlabelled, strict=False) if seen]:
        raise UserError(
            f"{source} saw {len(shared)} of the {len(val.images)} validation images without their labels, as a "
            f"target's, {shared[0]} the first: they would choose best.pt. Validate on another domain"
        )
