"""A new training from the weights of an earlier run."""

import logging

from torch import nn

from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.identity import class_ids
from metalab.tracking import checkpoint_schema
from metalab.tracking.run_folder import find_run

logger = logging.getLogger("metalab")


def warm_start(net: nn.Module, run: str) -> tuple[set[str], dict[str, str]]:
    """Load the weights of a run's best checkpoint into net; return the ids it carries, and what it says of its data.

    The body must fit; a part of the algorithm's that is not there, or has another shape, starts afresh and is named.
    """
    folder = find_run(run)
    saved = checkpoint_schema.load_checked(folder / "best.pt")
    own, given = net.state_dict(), saved["net"]
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    misfits = [k for k in {**own, **given} if k.startswith("body.") and k not in fits]
    if misfits:
        raise UserError(
            f"train.init={run}: its backbone {format_value(saved['config']['backbone'])} on images of shape "
            f"{saved['shape']} does not fit this one; {len(misfits)} tensors differ, the first is {misfits[0]}. "
            "Choose the same backbone, data.size and channels as that run's config.yaml"
        )
    net.load_state_dict(own | fits)
    afresh, unused = ({k.partition(".")[0] for k in keys if k not in fits} for keys in (own, given))
    logger.info(
        f"starts from {folder} after its step {saved['state']['step']}"
        + (f"; afresh: {', '.join(sorted(afresh))}" if afresh else "")
        + (f"; not taken: {', '.join(sorted(unused - afresh))}" if unused - afresh else "")
    )
    return set(saved["classes"]), saved["data"]


def refuse_leaked_validation(val: Split, known: set[str], source: str) -> None:
    """Raise UserError where validation classes were trained on by the warm start: they would choose best.pt."""
    shared = class_ids.seen_classes(val, known)
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise UserError(
            f"{source} was trained on {len(shared)} of the {len(set(val.ids))} validation classes: "
            f"{', '.join(shared[:5])}{more}. Give the split that it was trained with"
        )
