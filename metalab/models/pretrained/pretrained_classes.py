"""Which classes weights from elsewhere were trained on, by their global ids: no net is tested on what it has seen."""

from pathlib import Path

from metalab.config.paths import given_path
from metalab.core.errors import UserError

IMAGENET = Path(__file__).parents[2] / "data" / "splits" / "imagenet_ilsvrc2012.txt"
UNKNOWN = "unknown"
NOTE = "what the backbone's weights were trained on is not known"  # stands on every result
EXPECTED = (
    "imagenet, none, unknown, a text file with a global class id a line, as omniglot:Greek/character01, or a list of "
    "such ids"
)


def check_classes(classes: str | list[str] | None, weights: str | None) -> None:
    """Raise UserError where backbone.classes cannot be what weights saw."""
    if isinstance(classes, str):
        given_path(classes, "backbone.classes", "imagenet")
    elif classes is not None and not all(":" in each for each in classes or [""]):
        raise UserError(
            f"backbone.classes=[{','.join(classes)}]: expected ids with the data set before a colon; {EXPECTED}"
        )
    if weights is None and classes is not None:
        shown = classes if isinstance(classes, str) else f"[{','.join(classes)}]"
        raise UserError(f"backbone.classes={shown} without backbone.weights: random weights saw no class")


def refuse_unsaid(weights: str) -> None:
    """Raise UserError for weights of which nobody has said what they saw."""
    raise UserError(
        f"backbone.weights={weights}: which classes did they see? Type backbone.classes=imagenet, a text "
        "file with an id a line, backbone.classes=none where there were none, as in unlabelled data, or "
        "backbone.classes=unknown, which every result will say"
    )


def pretrained_class_ids(what: str | list[str]) -> set[str]:
    """Return the ids of imagenet, of none, of a list, or of a text file with an id a line; lines with # are comments.

    Of what is unknown none can be returned; `note` says so.
    """
    if isinstance(what, list):
        return set(what)
    if what in ("none", UNKNOWN):
        return set()
    path = IMAGENET if what == "imagenet" else given_path(what, "backbone.classes", "imagenet")
    if not path.is_file():
        raise UserError(f"backbone.classes={what}: expected {EXPECTED}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    ids = {line for line in lines if line and not line.startswith("#")}
    return {f"imagenet:{name}" for name in ids} if what == "imagenet" else ids
