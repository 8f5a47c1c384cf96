"""Images of other data sets that ImageNet has, too, by published lists: a net pretrained there has seen them."""

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from metalab.data.class_lists import class_list

OF_IMAGENET = {"ILSVRC", "MiniImageNet", "TieredImageNet"}  # data sets of its classes; ILSVRC leaves the lists' out


def in_imagenet(files: Iterable[str]) -> dict[str, str]:
    """Return which of these files are, by their names, copies of training images of ILSVRC 2012.

    The lists are those of Meta-Dataset (Triantafillou et al. 2020) for CUB-200-2011, Caltech-101 and Caltech-256. A
    file of CUB is known by its name, one of Caltech by its name and its folder's.

    Args:
        files: paths, as Split.files has them.

    Returns:
        By each such path the name of the file in ImageNet.
    """
    known, found = _known(), {}
    for file in files:
        parts = file.split("/")
        for key in (parts[-1], "/".join(parts[-2:])):
            if key in known:
                found[file] = known[key]
    return found


def imagenet_note(trained: Collection[str], files: Iterable[str]) -> str:
    """Return what a referee must know of a test on such files by weights that were trained on these ids; or ""."""
    if not any(class_id.startswith("imagenet:") for class_id in trained):
        return ""
    seen = {class_id.partition(":")[2] for class_id in trained}
    count = sum(copy.partition("_")[0] in seen for copy in in_imagenet(files).values())
    return f"{count} of its images are, by their file names, among ImageNet's of trained classes" if count else ""


def leaves_duplicates_out(node: Mapping[str, Any]) -> bool:
    """Return whether what data gives of ImageNet, by its settings or its members, has no image of the lists."""
    members = node.get("members", {"": node}).values()
    given = {str(each["_target_"]).rpartition(".")[2] for each in members} & OF_IMAGENET
    return given == {"ILSVRC"}


@cache
def _known() -> dict[str, str]:
    return dict(line.split() for line in class_list("imagenet_duplicates"))
