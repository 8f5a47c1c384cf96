"""Weights from a file, and weights of any source put into a body."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.models.feature_extractor import FeatureExtractor
from metalab.models.parametrizations import plain_names


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that torch.save or safetensors wrote; UserError where it is no state dictionary."""
    try:
        given = _safetensors(file) if file.suffix == ".safetensors" else _torch_saved(file)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError, OSError) as error:
        raise UserError(
            f"backbone.weights={file} is not a state dictionary: {(str(error) or 'empty').splitlines()[0]}. Save "
            "one with torch.save(net.state_dict(), file)"
        ) from error
    return {str(name): value for name, value in given.items() if isinstance(value, Tensor)}


def _torch_saved(file: Path) -> Mapping[str, Tensor]:
    return dict(torch.load(file, map_location="cpu", weights_only=True).items())


def _safetensors(file: Path) -> Mapping[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"backbone.weights={file} needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def fill(body: FeatureExtractor, given: Mapping[str, Tensor], weights: str, name: str) -> None:
    """Put weights into a body, all but the classifier's and those of auxiliary heads.

    Args:
        body: what a backbone has built.
        given: a state dictionary of its net.
        weights: what the user called them, and
        name: the net.

    Raises:
        UserError: where another tensor is missing, left over, or of another shape.
    """

    heads = tuple(f"{head}." for head in body.heads)
    names, state = plain_names(body.net), body.net.state_dict()
    auxiliary = {key for key in (*names, *given) if "aux" in key.lower()}
    own = {key: state[name] for key, name in names.items() if key not in auxiliary}
    left = {key for key in given if key not in own and key.startswith(heads)} if heads else set()
    used = {
        key: value
        for key, value in given.items()
        if not (key in left or key in auxiliary or key.endswith("num_batches_tracked"))
    }
    misfits = [k for k in {**own, **used} if k not in own or k not in used or own[k].shape != used[k].shape]
    if misfits:
        raise UserError(
            f"backbone.weights={weights} does not fit backbone.name={name}: {len(misfits)} tensors "
            f"differ, the first is {misfits[0]}; give the net that the weights belong to"
        )
    body.net.load_state_dict({names[key]: value for key, value in used.items()}, strict=False)
