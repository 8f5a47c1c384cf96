"""An episode in a page: the support of each class, and its queries with what every run took them for."""

from collections.abc import Sequence
from html import escape

import numpy as np

from metalab.tracking import html_report as html
from metalab.tracking.comparison.records import ShownEpisode

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letters(labels: Sequence[str]) -> dict[str, str]:
    """Return a short sign for each run, that stands below every query: a, b, ..., then their numbers."""
    return {label: LETTERS[i] if len(labels) <= len(LETTERS) else f"{i + 1}:" for i, label in enumerate(labels)}


def episode(shown: ShownEpisode) -> str:
    """Return the episode as a table, a row a class; a run's sign with ✓, or with the number of the class it chose."""
    signs = letters(list(shown.answers))
    rows = []
    for k, name in enumerate(shown.names):
        support = "".join(
            html.thumbnail(image, f"support image of class {k}, {name}")
            for image in shown.support_x[shown.support_y == k]
        )
        queries = "".join(_query(shown, int(i), k, signs) for i in np.flatnonzero(shown.query_y == k))
        heading = f'<th scope="row">{k} {escape(name)}</th>'
        cells = "".join(f'<td><div class="thumbs">{images}</div></td>' for images in (support, queries))
        rows.append(f"<tr>{heading}{cells}</tr>")
    title = f"Episode {shown.number}: {shown.why}"
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("class", "support", "queries"))
    return (
        f"<h3>{escape(title)}</h3>"
        f'<div class="episode" role="region" aria-label="{escape(title)}" tabindex="0"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _query(shown: ShownEpisode, query: int, k: int, signs: dict[str, str]) -> str:
    """Return a query with a line a run below it."""
    lines, said = [], []
    for label, given in shown.answers.items():
        taken = int(given[query])
        right, words = taken == k, "no class" if taken < 0 else f"class {taken}"
        lines.append(
            ("right", f"{signs[label]} ✓") if right else ("wrong", f"{signs[label]} ✗ {taken if taken >= 0 else '–'}")
        )
        said.append(f"{label}: {'right' if right else words}")
    return html.thumbnail(shown.query_x[query], f"query of class {k}; {'; '.join(said)}", lines)
