"""A record's target and source domains in words: accuracy on both, the gap, the gain over another run."""

import math
from collections.abc import Mapping
from typing import Any


def domain_rows(domains: Mapping[str, Any]) -> dict[str, str]:
    """Return what the screen says of a record's `domains`, by label."""
    source, target = domains["source"], domains["target"]
    rows = {
        "target": _reached(target, target["domain"]),
        "source": _reached(source, ", ".join(source["domains"])),
        "gap": f"{_points(domains['gap'])} from source to target",
    }
    if gain := domains.get("gain"):
        other = gain["baseline"]
        beside = f", trained beside {other['trained_beside']}" if "trained_beside" in other else ""
        rows["gain"] = (
            f"{_points(gain)} over {other['run']} ({100 * other['accuracy']:.2f} %{beside}), paired on the same "
            f"{'images' if 'images' in target else 'episodes'}"
        )
    if here := target.get("classes"):
        both = {name: (there, here[name]) for name, there in source["classes"].items() if name in here}
        each = [f"{name} {100 * one:.1f} → {100 * other:.1f}" for name, (one, other) in both.items()]
        rows["by class, %"] = ", ".join(each)
    return rows


def domain_scalars(domains: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record's `domains` that are curves, fractions."""
    gain = {"domains/gain": domains["gain"]["difference"]} if "gain" in domains else {}
    accuracies = {f"domains/{name}": domains[name]["accuracy"] for name in ("source", "target")}
    return {**accuracies, "domains/gap": domains["gap"]["difference"], **gain}


def _reached(part: Mapping[str, Any], name: str) -> str:
    half = f" ± {100 * part['ci95']:.2f}" if math.isfinite(part["ci95"]) else ""
    what = "images" if "images" in part else "episodes"
    return f"{100 * part['accuracy']:.2f}{half} % of {part[what]} test {what} of {name}"


def _points(difference: Mapping[str, Any]) -> str:
    return f"{100 * difference['difference']:+.2f} ± {100 * difference['ci95']:.2f} points"
