"""Print the glyph classes that look most alike, and draw them: python scripts/glyph_pairs.py [pairs.png]."""

import sys
import unicodedata

import numpy as np
from PIL import Image

from metalab.data.datasets.drawings.glyph_shapes import closest, looks, upright


def main(picture: str | None) -> None:
    """Print the 20 pairs of classes with the highest cosine between any two of their fonts."""
    glyphs = upright()
    looked = [looks(glyph.templates) for glyph in glyphs]
    similar = closest(looked, looked)
    rows, columns = np.triu_indices(len(glyphs), 1)
    order = np.argsort(-similar[rows, columns])[:20]
    pairs = [(glyphs[rows[i]], glyphs[columns[i]], similar[rows[i], columns[i]]) for i in order]
    joined = sum(len(glyph.alike) for glyph in glyphs)
    print(f"{len(glyphs)} classes of {len(glyphs) + joined} letters")
    for a, b, cosine in pairs:
        names = f"{unicodedata.name(chr(a.code))}, {unicodedata.name(chr(b.code))}"
        print(f"{cosine:.3f}  {chr(a.code)} {chr(b.code)}  {names}")
    if picture:
        width = max(len(glyph.templates) for pair in pairs for glyph in pair[:2])
        sheet = [[_strip(glyph.templates, width) for glyph in pair[:2]] for pair in pairs]
        Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in sheet])).save(picture)


def _strip(templates: np.ndarray, width: int) -> np.ndarray:
    blank = np.zeros((width + 1 - len(templates), *templates.shape[1:]), np.uint8)
    return np.concatenate([*templates, *blank], 1)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
