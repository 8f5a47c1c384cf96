"""Which classes weights from elsewhere were trained on, by their global ids: no net is tested on what it has seen."""

from pathlib import Path

from metalab.config.paths import given_path
from metalab.core.errors import UserError

IMAGENET = Path(__file__).parents[1] / "data" / "splits" / "imagenet_ilsvrc2012.txt"


def pretrained_class_ids(what: str) -> set[str]:
    """Return the ids of imagenet, of none, or of a text file with an id a line; lines with # are comments."""
    if what == "none":
        return set()
    path = IMAGENET if what == "imagenet" else given_path(what, "backbone.classes", "imagenet")
    if not path.is_file():
        raise UserError(
            f"backbone.classes={what}: expected imagenet, none, or a text file with a global class id a line, "
            "as omniglot:Greek/character01"
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    ids = {line for line in lines if line and not line.startswith("#")}
    return {f"imagenet:{name}" for name in ids} if what == "imagenet" else ids
