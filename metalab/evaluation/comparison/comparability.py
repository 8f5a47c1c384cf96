"""Which runs were measured alike, and in what the others were not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

UNRANKED = ("transductive", "trained on test classes", "image size")  # conditions that help one run and not another
SAID = {
    ("transductive", True): "transductive: queries normalized by the statistics of all queries (the others: inductive)",
    ("transductive", False): "inductive (the others: transductive, queries normalized by the statistics of them all)",
    ("trained on test classes", True): "trained on classes of the test (overlap)",
}


class Verdict(NamedTuple):
    """What may be said of one run beside the others."""

    paired: bool  # its episodes are theirs
    ranked: bool  # and the conditions, too
    remarks: list[str]


def verdicts(episodes: Sequence[Mapping[str, Any]], conditions: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Judge each run beside the others: what most of them share is the rule, the earlier run's where it is a draw.

    Args:
        episodes: of each run, facts by which its episodes are those of another.
        conditions: of each run, facts under which the same episodes are harder or easier. Of the last ones, those
            that are not in UNRANKED, a difference is told and ranks nothing out: they are a part of the method.
    """
    rule = _most(list(episodes))
    same = [each == rule for each in episodes]
    usual = {key: _most([each[key] for each, s in zip(conditions, same, strict=True) if s]) for key in conditions[0]}
    if not all(each["trained on test classes"] for each, s in zip(conditions, same, strict=True) if s):
        usual["trained on test classes"] = False  # not even where most were
    found = []
    for facts, under, paired in zip(episodes, conditions, same, strict=True):
        others = {key: value for key, value in under.items() if value != usual[key]}
        remarks = [] if paired else _other_episodes(facts, rule)
        remarks += [
            SAID.get((key, value)) or f"{key} {_word(value)} (the others: {_word(usual[key])})"
            for key, value in others.items()
            if not (key == "batch norm" and "transductive" in others)
        ]
        found.append(Verdict(paired, paired and not set(others) & set(UNRANKED), remarks))
    return found


def _other_episodes(facts: Mapping[str, Any], rule: Mapping[str, Any]) -> list[str]:
    """Say in what a run's episodes are not the others'; their digest only where nothing else says it."""
    keys = [key for key in dict.fromkeys((*rule, *facts)) if facts.get(key) != rule.get(key)]
    plain = [key for key in keys if key != "images of the episodes"]
    if not plain:
        return ["other classes or images: another version of the data"]
    return [f"{key} {_word(facts.get(key))} (the others: {_word(rule.get(key))})" for key in plain]


def _most(values: list[Any]) -> Any:
    """Return the value that is there most often, of equally many the first."""
    counts = Counter(repr(value) for value in values)
    most = max(counts.values())
    return next(value for value in values if counts[repr(value)] == most)


def _word(value: Any) -> str:
    return "none" if value is None else "yes" if value is True else "no" if value is False else str(value)
