"""What a split of a folder is made of, before its images are gathered."""

from typing import NamedTuple


class Part(NamedTuple):
    """What a split is made of, without its pixels."""

    ids: list[str]  # of classes
    names: list[str]
    count: list[int]
    files: list[str]
    image_ids: list[str]
    rows: list[int]  # of the store's images
    copies: list[str]  # files of images that their class has already, "copy = first", left out or not
    shared: int  # images that two classes of the split have
    small: list[str]  # classes that are left out, "name (images)"
