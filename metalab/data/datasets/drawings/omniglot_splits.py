"""Which character of Omniglot stands in which split: one function for all protocols."""

import torch

from metalab.data.class_lists import class_list

SPLITS = ("train", "val", "test")
SIZES = (1100, 100, 423)  # characters of the random split (Finn et al., 2017)
MINIMAL = {  # alphabets of the challenge's two minimal background sets, images_background_small1.zip and _small2.zip
    "small1": ["Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"],
    "small2": ["Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"],
}
CHALLENGE = ("background", *MINIMAL)  # what a net for the one-shot challenge may learn from: no test split
PROTOCOLS = ("vinyals", "random", *CHALLENGE)


def alphabet(character: str) -> str:
    """Return the alphabet of "Greek/character01"."""
    return character.partition("/")[0]


def split_of(protocol: str, seed: int) -> dict[str, str]:
    """Return each character's split ("Greek/character01": "train"), in the order of the splits.

    vinyals: as published; random: 1100/100/423 characters by seed. background, small1, small2: whole alphabets, a
    sixth of them, at least one, for validation by seed, and none for the test, which is the one-shot challenge.
    """
    lists = [class_list(f"omniglot_vinyals_{split}") for split in SPLITS]
    generator = torch.Generator().manual_seed(seed)
    every = sorted(name for names in lists for name in names)
    if protocol == "random":
        order = torch.randperm(len(every), generator=generator)
        lists = [[every[i] for i in chosen] for chosen in order.split(SIZES)]
    elif protocol in CHALLENGE:
        alphabets = MINIMAL[protocol] if protocol in MINIMAL else class_list("omniglot_background")
        order = torch.randperm(len(alphabets), generator=generator).tolist()
        held = {alphabets[i] for i in order[: max(1, len(alphabets) // 6)]}
        shown = [name for name in every if alphabet(name) in alphabets]
        lists = [[name for name in shown if (alphabet(name) in held) == out] for out in (False, True)]
    return {name: split for split, names in zip(SPLITS, lists, strict=False) for name in names}
