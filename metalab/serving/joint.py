"""What serving asks of methods that infer all images together (AlgorithmTraits.transductive), and what it says."""

from metalab.config.schema import Predict
from metalab.core.errors import UserError
from metalab.serving.classifier import Adaptation, Classifier

INSTEAD = "algo=simpleshot, or another that takes each image by itself"


def joint_note(name: str, images: int) -> str:
    """Return what a reader of predictions must know."""
    return (
        f"algo={name} classified the {images} images together: each answer depends on the others, and they are taken "
        "to hold about as many of each class. What to expect is not estimated, for the support says nothing about that"
    )


def refuse_few(classifier: Classifier, name: str, images: int) -> None:
    """Raise UserError where there are fewer images than classes: nothing says then how the classes are spread."""
    if classifier.jointly and images < (way := len(classifier.names)):
        raise UserError(
            f"algo={name} classifies all images together, {way} classes spread over them, and there {_are(images)}: "
            f"give {way} or more, or take {INSTEAD}"
        )


def refuse_reject(adaptation: Adaptation, name: str, asked: Predict) -> None:
    """Raise UserError for predict.reject: a score depends on the other images, and no threshold holds for it."""
    if adaptation.jointly and asked.reject is not None:
        raise UserError(
            f"predict.reject={asked.reject:g}: algo={name} classifies all images together, so that no score of one "
            f"image says that it is of none of the classes: type predict.reject=null, or take {INSTEAD}"
        )


def refuse_one_by_one(adaptation: Adaptation, name: str, what: str) -> None:
    """Raise UserError for what asks a classifier about one image at a time."""
    if adaptation.jointly:
        raise UserError(
            f"{what}, and algo={name} classifies all images together: take {INSTEAD}; metalab predict images=FOLDER "
            "classifies a folder's images with it"
        )


def _are(images: int) -> str:
    return "is 1" if images == 1 else f"are {images}"
