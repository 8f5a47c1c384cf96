"""Numbers of a comparison in words, and text as LaTeX and Markdown take it."""

import math
import re

from metalab.core.statistics import Difference, Interval
from metalab.tracking.comparison.records import Row

LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def accuracy(interval: Interval, between: str = " ± ") -> str:
    """Return a mean with its interval in per cent, [low, high] where it is not symmetric."""
    mean, low, high = (100 * each for each in interval[:3])
    if not math.isfinite(low):
        return f"{mean:.2f}"
    if interval.kind == "bootstrap":
        return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
    return f"{mean:.2f}{between}{high - mean:.2f}"


def difference(found: Difference | None) -> str:
    """Return a difference in points with its interval."""
    if found is None:
        return "–"
    mean, low, high = (100 * each for each in found[:3])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else f"{mean:+.2f}"


def p_value(p: float | None) -> str:
    """Return a p-value with three digits behind the point."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(row: Row) -> str:
    """Say what became of a method beside the best one."""
    if row.best:
        return "best"
    if not row.ranked:
        return "not ranked"
    if row.significant is None:
        return "not tested"
    return "significantly different" if row.significant else "not significantly different"


def mark(row: Row) -> str:
    """Return the mark behind a number: * not significantly different from the best, † not ranked, ‡ see the remarks."""
    if not row.ranked:
        return "†"
    return ("*" if row.significant is False else "") + ("‡" if row.remarks else "")


def latex(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def markdown(text: str) -> str:
    """Return text as a Markdown table shows it."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|*_`\[\]~])", r"\\\1", text).replace("\n", " ")
