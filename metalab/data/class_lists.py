"""The names of the splits, and the class lists of published splits that ship with the package."""

from pathlib import Path

SPLITS = ("train", "val", "test")


def class_list(name: str) -> list[str]:
    """Return the class names of a shipped list, splits/NAME.txt, in its order."""
    text = (Path(__file__).with_name("splits") / f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def class_splits(name: str) -> dict[str, str]:
    """Return the split of each class of the three shipped lists NAME_train, NAME_val and NAME_test."""
    return {each: split for split in SPLITS for each in class_list(f"{name}_{split}")}
