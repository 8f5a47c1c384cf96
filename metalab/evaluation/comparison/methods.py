"""Which runs are one method with several seeds, what methods are called, and in what their settings differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from metalab.config.instantiate import flat
from metalab.tracking.comparison.records import Method

# what makes no other method
APART = ("seed", "device", "resume", "data.root", "data.cache", "train.workers", "eval.batch")
SHOWN = 3  # settings in a method's name


def group_methods(
    settings: Sequence[Mapping[str, Any]], seeds: Sequence[int | None], folders: Sequence[str]
) -> list[Method]:
    """Return the methods in the order of their first runs.

    Runs are one method where their settings are the same but for the seed. The same settings with the same seed again,
    as a copy of a run, are another method: a seed counts once.

    Args:
        settings: of each run, nested.
        seeds: of each training; None: it has none.
        folders: of each run, what tells methods apart where no setting does.
    """
    plain = [_plain(each) for each in settings]
    found: list[tuple[dict[str, Any], list[int]]] = []
    for run, own in enumerate(plain):
        home = next((runs for kept, runs in found if kept == own and seeds[run] not in [seeds[i] for i in runs]), None)
        if home is None:
            found.append((own, [run]))
        else:
            home.append(run)
    labels = _labels([own for own, _ in found], [folders[runs[0]] for _, runs in found])
    return [
        Method(label, tuple(runs), tuple(seeds[i] for i in runs))
        for label, (_, runs) in zip(labels, found, strict=True)
    ]


def run_labels(methods: Sequence[Method], count: int) -> list[str]:
    """Return a name for each of so many runs: its method's, with the seed where there are several."""
    names = [""] * count
    for method in methods:
        for run, seed in zip(method.runs, method.seeds, strict=True):
            names[run] = f"{method.label}, seed {seed}" if len(method.runs) > 1 else method.label
    return names


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return dotted key -> the value of each, None where it has no such key, of the keys that are not all alike."""
    plain = [_plain(each) for each in settings]
    keys = dict.fromkeys(key for own in plain for key in own)
    rows = {key: [own.get(key) for own in plain] for key in keys}
    return {key: values for key, values in sorted(rows.items()) if any(value != values[0] for value in values)}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in flat(settings).items() if key not in APART}
    without = own.get("backbone.lora") is None  # older runs have no such keys
    return {key: value for key, value in own.items() if not (without and key.startswith("backbone.lora"))}


def _labels(settings: Sequence[dict[str, Any]], folders: Sequence[str]) -> list[str]:
    """Return names that are all different: the algorithm, then settings that tell its methods apart, then folders."""
    labels = [str(own.get("algo.name", "run")) for own in settings]
    for name in [name for name in dict.fromkeys(labels) if labels.count(name) > 1]:
        members = [i for i, label in enumerate(labels) if label == name]
        told = differing_settings([settings[i] for i in members])
        keys = [key for key in told if not key.endswith("_target_")] or list(told)
        for i in members:
            words = [f"{key}={_word(settings[i].get(key))}" for key in keys[:SHOWN]]
            labels[i] = " ".join([name, *words])
    return [
        label if labels.count(label) == 1 else f"{label} ({folder})"
        for label, folder in zip(labels, folders, strict=True)
    ]


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
