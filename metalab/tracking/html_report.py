"""One HTML file that needs nothing else: sections, tables, figures and thumbnails, its style and images within.

All text that is given is escaped here. No script, no font and no image comes from elsewhere.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #59636e; --paper: #ffffff; --line: #d5dae0; --card: #f5f7f9;
  --accent: #1f5fa8; --good: #1b7a36; --bad: #c0262d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb8; --paper: #15181c; --line: #3a424b;
  --card: #1f242a; --accent: #7fb2ee; --good: #63c983; --bad: #ff8b8b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
a { color: var(--accent); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
caption span { display: block; max-width: min(68rem, 90vw); }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
td { white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); background: var(--card); }
tbody th { font-weight: 600; }
td.long { min-width: 18rem; white-space: normal; overflow-wrap: anywhere; }
tr.best { background: var(--card); font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.figures > figure { flex: 1 1 28rem; max-width: 42rem; }
figure { margin: 1rem 0; }
figure > img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
figcaption, .note { color: var(--soft); font-size: .875rem; }
.episode { overflow-x: auto; }
.episode img { width: 40px; height: auto; display: block; image-rendering: pixelated; border: 2px solid var(--line); }
.thumbs { display: flex; gap: .5rem; }
.thumbs figcaption { font-size: .75rem; line-height: 1.25; white-space: nowrap; }
.thumbs figure { margin: 0; }
.right { color: var(--good); } .wrong { color: var(--bad); }
@media print { nav { display: none; } }
"""


def page(title: str, sections: Sequence[tuple[str, str]], introduction: str = "") -> str:
    """Return a whole page.

    Args:
        title: in words.
        sections: of each its heading, in words, and its HTML. They are listed at the top.
        introduction: HTML below the title.
    """
    links = "".join(f'<li><a href="#s{i}">{escape(heading)}</a></li>' for i, (heading, _) in enumerate(sections))
    body = "".join(
        f'<section aria-labelledby="s{i}"><h2 id="s{i}">{escape(heading)}</h2>{html}</section>'
        for i, (heading, html) in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # else a browser asks for one
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>{introduction}</header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
        f"<main>{body}</main></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return text as a paragraph; kind: its class in the style, note."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def items(texts: Iterable[str]) -> str:
    """Return texts as a list; nothing for none."""
    found = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{found}</ul>" if found else ""


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[bool] = ()) -> str:
    """Return a table: the first cell of each row is its heading.

    best: of each row, whether it stands out.
    """
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    lines = []
    for i, (first, *others) in enumerate(rows):
        told = "".join(f"<td{_class('long' if len(cell) > 30 else '')}>{escape(cell)}</td>" for cell in others)
        strong = _class("best" if i < len(best) and best[i] else "")
        lines.append(f'<tr{strong}><th scope="row">{escape(first)}</th>{told}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def figure(drawn: "Figure", alt: str, caption: str = "") -> str:
    """Return a picture of matplotlib's as an image within the page, with what it shows in words."""
    from metalab.tracking.figures import svg

    data = base64.b64encode(svg(drawn).encode()).decode()
    under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}">{under}</figure>'


def side_by_side(*parts: str) -> str:
    """Return figures beside each other where the window is wide enough."""
    return f'<div class="figures">{"".join(parts)}</div>'


def thumbnail(image: "np.ndarray", alt: str, lines: Sequence[tuple[str, str]] = ()) -> str:
    """Return an image uint8 [C,H,W], C 1 or 3, with lines of (class in the style, text) below it."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    file, kind = io.BytesIO(), "png" if pixels.size < 4000 else "jpeg"  # a photograph as PNG takes ten times as much
    picture = Image.fromarray(pixels)
    picture.thumbnail((96, 96))
    picture.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    data = base64.b64encode(file.getvalue()).decode()
    said = "<br>".join(f"<span{_class(style)}>{escape(text)}</span>" for style, text in lines)
    under = f"<figcaption>{said}</figcaption>" if said else ""
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{escape(alt)}">{under}</figure>'


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""
