"""The shapes of the glyphs data set: which letters of matplotlib's fonts are classes, and what they look like."""

import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

# Upright faces only: an italic letter takes the shape of another one (a and alpha). Not every font matplotlib ships
# is safe: LastResortHE claims all of Unicode and draws boxes.
FACES = tuple(f"DejaVu{family}{weight}" for family in ("Sans", "SansMono", "Serif") for weight in ("", "-Bold"))
FACES += ("STIXGeneral", "STIXGeneralBol")
SIDE = 48  # pixels of a template, S below: whatever size is drawn, so that every size has the same classes
ALIKE = 0.92  # cosine of blurred 16x16 renders from which two shapes are one class


class Glyph(NamedTuple):
    """One class: a shape, upright or turned, and its look-alikes."""

    code: int  # the first code point of this shape
    turn: int  # quarter turns counter-clockwise
    script: str
    alike: list[int]  # later code points that are no classes of their own, because they resemble it
    templates: np.ndarray  # uint8 [fonts,S,S], ink 255, one for each font that has it, turned


def upright() -> list[Glyph]:
    """Return one glyph a shape, by code point: a letter that resembles an earlier class's glyph is no class.

    Resembles: any two of their fonts are ALIKE. Comparing with glyphs, not with all letters that joined them, keeps
    chains of resemblance (o, e, c, G, ...) from swallowing the alphabet; only the first letter is ever drawn.
    """
    codes, templates = _rendered()
    seen = [looks(each) for each in templates]
    similar = closest(seen, seen)
    home: list[int] = []  # of each letter, the index of its class's first letter
    leaders: list[int] = []
    for i in range(len(codes)):
        if leaders and similar[i, leaders].max() >= ALIKE:
            home.append(home[similar[i, :i].argmax()])  # with the letter it resembles most
        else:
            leaders.append(i)
            home.append(i)
    alike = {k: [code for code, at in zip(codes, home, strict=True) if at == k][1:] for k in leaders}
    return [Glyph(codes[k], 0, _script(codes[k]), alike[k], templates[k]) for k in leaders]


def turned(train: list[Glyph], taken: list[Glyph]) -> list[Glyph]:
    """Return the train glyphs turned by 1, 2 and 3 quarters that resemble neither a taken glyph nor one another.

    They must not resemble when both are stretched to a square, either: N turned by 90 degrees is a wide Z.
    """
    found = [
        glyph._replace(turn=turn, alike=[], templates=np.ascontiguousarray(np.rot90(glyph.templates, turn, (1, 2))))
        for glyph in train
        for turn in (1, 2, 3)
    ]
    similar = np.zeros((len(found), len(taken) + len(found)), np.float32)
    for seen in (lambda glyph: looks(glyph.templates), lambda glyph: looks(stretched(glyph.templates))):
        mine, theirs = [seen(glyph) for glyph in found], [seen(glyph) for glyph in taken]
        similar = np.maximum(similar, closest(mine, theirs + mine))
    kept: list[int] = []
    for i, row in enumerate(similar):
        if row[[*range(len(taken)), *(len(taken) + k for k in kept)]].max(initial=0) < ALIKE:
            kept.append(i)
    return [found[i] for i in kept]


def closest(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    """Return float32 [len(a),len(b)], the highest cosine between any look of one and any look of the other."""
    columns = np.concatenate(b).T
    found = []
    for part in (a[i : i + 64] for i in range(0, len(a), 64)):  # not all at once: that would be gigabytes
        rows = np.maximum.reduceat(np.concatenate(part) @ columns, _starts(part), 0)
        found.append(np.maximum.reduceat(rows, _starts(b), 1))
    return np.concatenate(found)


def looks(templates: np.ndarray) -> np.ndarray:
    """Return float32 [N,256], unit length: the templates at 16x16, blurred."""
    small = templates.reshape(-1, 16, SIDE // 16, 16, SIDE // 16).mean((2, 4), dtype=np.float32)
    flat = ndimage.gaussian_filter(small, (0, 0.5, 0.5)).reshape(len(templates), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def stretched(templates: np.ndarray) -> np.ndarray:
    """Return the templates with their ink stretched to all of the square."""
    images = [Image.fromarray(template) for template in templates]
    return np.stack([np.asarray(i.resize(i.size, Image.Resampling.BILINEAR, i.getbbox())) for i in images])


def _rendered() -> tuple[list[int], list[np.ndarray]]:
    """Return the letters' code points and each one's templates, uint8 [fonts,S,S]."""
    from matplotlib import get_data_path  # here, since a finished store needs no matplotlib
    from matplotlib.ft2font import FT2Font

    faces = []
    for face in FACES:
        path = Path(get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
        font = ImageFont.truetype(str(path), 2 * SIDE, layout_engine=ImageFont.Layout.BASIC)
        faces.append((font, set(FT2Font(str(path)).get_charmap())))
    codes, templates = [], []
    for code in sorted(set().union(*(points for _, points in faces))):
        char = chr(code)
        if unicodedata.category(char) not in ("Lu", "Ll", "Lt", "Lo") or unicodedata.normalize("NFKD", char) != char:
            continue  # no letter, or written with others: accented, a ligature, a presentation form
        found = [_template(font, char) for font, points in faces if code in points]
        found = [template for template in found if template is not None]
        if found:
            codes.append(code)
            templates.append(np.stack(found))
    return codes, templates


def _template(font: ImageFont.FreeTypeFont, char: str) -> np.ndarray | None:
    """Return the character uint8 [S,S], its ink scaled to 3/4 of the side and centred; None where it has none."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(char))
    page = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(page).text((-left, -top), char, 255, font)
    box = page.getbbox()
    if box is None:
        return None
    image = page.crop(box)
    ratio = 0.75 * SIDE / max(image.size)
    image = image.resize([max(1, round(edge * ratio)) for edge in image.size], Image.Resampling.BOX)
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(canvas)


def _script(code: int) -> str:
    """Return the script's name: the first word of the character's, LATIN for the few that are named otherwise."""
    word = unicodedata.name(chr(code)).split()[0]
    return {"TURNED": "LATIN", "ROMAN": "LATIN"}.get(word, word)


def _starts(parts: list[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *map(len, parts[:-1])])
