"""A classifier from an ONNX file that `metalab export` wrote, by onnxruntime: no run and no support are needed."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalab.config.schema import Predict
from metalab.core.errors import UserError
from metalab.data.formats.image_decode import decode
from metalab.serving.classifier import Classifier
from metalab.serving.export_formats import check_installed, onnx_session, run_session
from metalab.serving.images import Decode
from metalab.serving.practice import Practice


@dataclass(frozen=True)
class OnnxFile:
    """An exported file, with what stands in its metadata."""

    path: Path
    facts: dict[str, Any]

    @property
    def words(self) -> str:
        """What is shown in the place of a run's folder."""
        return f"{self.path}, of {self.facts['run']}"

    @property
    def algo_name(self) -> str:
        return self.facts["algo"]

    @property
    def bn(self) -> str:
        return self.facts["bn"]

    @property
    def decode(self) -> Decode:
        """Return the reader of image files that gives them as the net takes them."""
        prepared = self.facts["preparation"]
        return partial(decode, **{key: prepared[key] for key in ("size", "channels", "resize", "interpolation")})


def practice_of_file(path: Path, support: str | None, asked: Predict) -> Practice:
    """Return the classifier in a file.

    Args:
        path: of the file.
        support: that was given beside it, which it has no use for.
        asked: the settings of predict.

    Raises:
        UserError: for a file that metalab did not write, or holds no classifier, and for settings that need a support.
    """
    check_installed("onnx")
    if support is not None:
        raise UserError(
            f"support={support}: {path} holds the classifier of the support that it was exported with; leave it out, "
            "or type run=RUN support=FOLDER with the run's folder"
        )
    if asked.reject is not None:
        raise UserError(
            f"predict.reject is set on a support's images, which {path} does not hold: type run=RUN support=FOLDER"
        )
    session, facts = _opened(path)
    file = OnnxFile(path, facts)
    temperature = float(facts["temperature"]) if asked.calibrate else 1.0

    def predict(x: Tensor) -> Tensor:
        return torch.cat([run_session(session, {"images": some}) for some in x.split(asked.batch)])

    classifier = Classifier(list(facts["classes"]), predict, lambda images: images.float().div_(255))
    notes = [f"when it was exported, this was expected: {facts['expected']}"] if facts["expected"] else []
    return Practice(file, classifier, temperature=temperature, notes=notes)


def _opened(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the session of a file and its metadata; UserError unless it is a classifier that metalab exported."""
    try:
        session = onnx_session(path)
        stored = dict(session.get_modelmeta().custom_metadata_map)
    except Exception as error:  # onnxruntime has a class of its own for each
        raise UserError(f"run={path} cannot be read as ONNX: {str(error).strip().splitlines()[0][:200]}") from error
    wants = "metalab predict takes what metalab export run=RUN support=FOLDER format=onnx wrote"
    if "metalab" not in stored:
        raise UserError(f"run={path} was not made by metalab: it does not say how images are prepared; {wants}")
    if stored.get("what") != "adapted":
        raise UserError(f"run={path} holds what={stored.get('what')}, and no classifier of classes with names; {wants}")
    return session, {
        **stored,
        **{key: _plain(stored[key]) for key in ("classes", "preparation", "temperature", "expected")},
    }


def _plain(text: str) -> Any:
    """Return what a text of metadata stands for: JSON, or a text as it is (export_formats.text_facts)."""
    try:
        return json.loads(text)
    except ValueError:
        return text
