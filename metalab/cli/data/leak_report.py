"""The leak report in words, as a file and as a picture of the pairs to look at."""

import json
from pathlib import Path

from metalab.cli.data import contact_sheet
from metalab.core.interfaces import Split
from metalab.data.identity.imagenet_duplicates import in_imagenet
from metalab.data.identity.leaks import NEAR, UNLABELLED, Leaks, Place, pairs

SHOWN = 20  # pairs that are printed; all of them are in leaks.json
DRAWN = 60  # pairs in the picture, nearest first


def format_leak_report(name: str, splits: dict[str, Split], found: Leaks) -> str:
    """Return the report as lines of text."""
    lines = []
    for split, held in splits.items():
        if split == UNLABELLED:
            shape = "x".join(map(str, held.images.shape[1:]))
            lines.append(f"{name} train shows beside them {len(held.images):,} images {shape} of {held.names[0]}")
            continue
        counts = held.count.tolist()
        each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        shape = "x".join(map(str, held.images.shape[1:]))
        note = f"; {held.note}" if held.note else ""
        lines.append(
            f"{name} {split}: {len(held.ids):,} classes of {each} images, {len(held.images):,} images {shape}{note}"
        )
    by_image = any(held.by_image for held in splits.values())
    lines.append(_heading("classes in two splits", len(found.across)) if not by_image else "all classes in each split")
    lines += _cut([f"  {each}: {' and '.join(names)}" for each, names in found.across.items()])
    if twins := [f"  {each}: {names[0]}" for each, names in found.classes.items() if each not in found.across]:
        lines += [_heading("classes of one split with the same images", len(twins)), *_cut(twins)]
    same = pairs(found.same)
    across = sum(one.split != other.split for one, other in same)
    lines.append(_heading("pairs of identical images", len(same), f", {across} of them across splits"))
    lines += _cut([f"  {_named(one)} = {_named(other)}" for one, other in same])
    lines.append(
        _heading("candidates for near copies across splits", len(found.near), f" (pHash, at most {NEAR} of 64 bits)")
    )
    lines += _cut([f"  {pair.distance} bits: {_named(pair.one)} ~ {_named(pair.other)}" for pair in found.near])
    if twins := _imagenet(splits):
        lines.append(_heading("images that ImageNet has, too, by published lists of file names", len(twins)))
        lines += _cut([f"  {each['split']} {each['file']} = {each['imagenet']}" for each in twins])
    lines.append(_heading("files that cannot be read", len(found.unreadable)))
    lines += _cut([f"  {file}" for file in found.unreadable])
    return "\n".join(lines)


def write_leak_report(folder: Path, splits: dict[str, Split], found: Leaks) -> None:
    """Write leaks.json, with everything, and near.png, with the nearest pairs side by side."""
    listed = {
        "classes": found.classes,
        "same": [[place._asdict() for place in places] for places in found.same],
        "near": [{"distance": p.distance, "one": p.one._asdict(), "other": p.other._asdict()} for p in found.near],
        "imagenet": _imagenet(splits),
        "unreadable": found.unreadable,
    }
    with contact_sheet.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "leaks.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")
    if found.near:
        rows = [
            contact_sheet.Row(
                f"{p.distance} bits: {p.one.split} {p.one.class_id} ~ {p.other.split} {p.other.class_id}",
                _image(splits, p.one),
                _image(splits, p.other),
            )
            for p in found.near[:DRAWN]
        ]
        contact_sheet.save(contact_sheet.drawn(rows), folder / "near.png")


def _imagenet(splits: dict[str, Split]) -> list[dict[str, str]]:
    """Return the images that nets which were pretrained on ImageNet have seen."""
    copies = {name: in_imagenet(held.files) for name, held in splits.items()}
    return [
        {"split": name, "file": file, "imagenet": copy} for name, own in copies.items() for file, copy in own.items()
    ]


def _image(splits: dict[str, Split], place: Place) -> list:
    return [splits[place.split].images[place.index].numpy()]


def _named(place: Place) -> str:
    return f"{place.split} {place.class_id} {place.file}"


def _heading(what: str, count: int, more: str = "") -> str:
    return f"{what}: {f'{count:,}' if count else 'none'}{more if count else ''}"


def _cut(lines: list[str]) -> list[str]:
    left = len(lines) - SHOWN
    return lines if left <= 0 else [*lines[:SHOWN], f"  and {left:,} more; out=FOLDER writes them all"]
