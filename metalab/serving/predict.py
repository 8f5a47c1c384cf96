"""`metalab predict`: classify a person's own images by a support of theirs, or by what a run was trained on."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig

from metalab.config.experiment import read_config
from metalab.config.instantiate import settings
from metalab.config.schema import Predict
from metalab.core.errors import UserError
from metalab.core.text import first_names
from metalab.serving import prediction_report
from metalab.serving.ensemble import load_model
from metalab.serving.images import NamedImage, decoded, list_images, report_unread
from metalab.serving.joint import joint_note, refuse_few
from metalab.serving.onnx_file import practice_of_file
from metalab.serving.practice import Practice, build_practice
from metalab.tracking.run_lock import locked_run

logger = logging.getLogger("metalab")
KEYS = ("support", "images", "predict")  # of the root, beside those of every command
SHEET = 400  # images that the contact sheet shows


class Prediction(NamedTuple):
    """What is said of one image."""

    file: str  # below the folder that was given
    label: str  # "": it is like none of the classes
    probability: float  # of the likeliest class
    probabilities: list[float]  # of each class
    pixels: np.ndarray | None  # uint8 [C,H,W], of those that are shown


def run(runs: Sequence[tuple[Path | None, DictConfig]], out: Path) -> float:
    """Classify images as a configuration says, and write what was found to out.

    Args:
        runs: the folder of a run, or a file that metalab export wrote (None: a pretrained backbone, and no run), and
            the configuration of the command for it; several are the members of an ensemble.
        out: the folder for predictions.csv, predictions.png and predict.json.

    Returns:
        The expected accuracy, a fraction; nan where none can be said.

    Raises:
        UserError: for settings, folders or images that do not fit, before anything is written.
    """
    configs = [(folder, read_config(cfg, KEYS)) for folder, cfg in runs]
    folder, config = configs[0]
    asked = settings(Predict, config.whole["predict"], "predict")
    given, images = config.whole["support"], config.whole["images"]
    if images is None:
        raise UserError("which images? Type images=FOLDER, of images at any depth, or images=FILE")
    root, files = list_images(str(images))
    with locked_run(out):
        support = None if given is None else str(given)
        if folder is not None and folder.is_file():
            if config.whole["ensemble"] is not None:
                raise UserError(f"ensemble={config.whole['ensemble']}: {folder} is one model already: leave it out")
            practice = practice_of_file(folder, support, asked)
        else:
            practice = build_practice(load_model(configs, asked.batch), support, asked, config.seed)
        unread: dict[str, str] = {}
        images_read = decoded(root, files, practice.run.decode)
        batch = len(files) if practice.classifier.jointly else asked.batch
        predictions = list(_classify(practice, images_read, batch, len(files), unread))
        report_unread(unread, asked.strict, f"{len(files)} images")
        if not predictions:
            raise UserError(f"images={images}: none of the {len(files)} images can be read")
        if practice.classifier.jointly:
            practice.notes.append(joint_note(practice.run.algo_name, len(predictions)))
        prediction_report.write(out, practice, predictions, unread)
    return practice.expected.accuracy if practice.expected is not None else float("nan")


def _classify(
    practice: Practice, images: Iterator[NamedImage], batch: int, total: int, unread: dict[str, str]
) -> Iterator[Prediction]:
    """Give the predictions of images in their order; what cannot be read goes to `unread`."""
    own = set() if practice.support is None else set(practice.support.digests)
    names, copies, done = practice.classifier.names, [], 0
    shown = set(np.linspace(0, total - 1, min(total, SHEET)).round().astype(int).tolist())
    while some := list(islice(images, batch)):
        unread.update({image.file: image.pixels for image in some if isinstance(image.pixels, str)})
        kept = [(i, image) for i, image in enumerate(some, done) if not isinstance(image.pixels, str)]
        done += len(some)
        if not kept:
            continue
        refuse_few(practice.classifier, practice.run.algo_name, len(kept))
        copies += [image.file for _, image in kept if image.digest in own]
        logits = practice.classifier.logits(torch.from_numpy(np.stack([image.pixels for _, image in kept])))  # type: ignore[arg-type]
        shares = (logits / practice.temperature).softmax(1)
        known = practice.is_known(logits).tolist()
        for (i, image), row, fits in zip(kept, shares, known, strict=True):
            best = int(row.argmax())
            pixels = image.pixels if i in shown and isinstance(image.pixels, np.ndarray) else None
            yield Prediction(image.file, names[best] if fits else "", float(row[best]), row.tolist(), pixels)
        if total > 10 * batch:
            logger.info(f"{done} of {total} images")
    if copies:
        practice.notes.append(
            f"{len(copies)} of the images are images of the support, and say nothing about new ones: "
            f"{first_names(copies, 3)}"
        )
