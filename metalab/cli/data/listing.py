"""What data sets there are: each YAML's first two lines say what it is, the cache says whether it is there."""

import re
from pathlib import Path

from rich.console import Console
from rich.table import Table

FACTS = re.compile(r"# (.+ classes.*); (.+ images.*); (.+); licence: (.+)")  # the second line of a data set's YAML


def print_datasets(options: dict[str, Path], cache: Path) -> None:
    """Print a table of the data sets whose YAML files these are: classes, images, size, licence, room on the disk."""
    table = Table(box=None, header_style="bold")
    for column in ("data=", "classes", "images", "each", "on disk", "what it is; licence"):
        table.add_column(column)
    for name, path in options.items():
        title, second = [*path.read_text(encoding="utf-8").splitlines(), "", ""][:2]
        found = FACTS.fullmatch(second)
        classes, images, each, licence = found.groups() if found else ("", "", "", "")
        what = title.removeprefix("# ") if title.startswith("#") else ""
        licence = f"; {licence}" if licence else ""
        words = (name, classes.replace(" classes", ""), images.replace(" images", ""), each)
        table.add_row(*words, _size(cache, name), what + licence)
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    console.print(f"prepared data: {cache}", soft_wrap=True)


def _size(cache: Path, name: str) -> str:
    """Return how much room the stores of a data set take, "no" where there is none."""
    stores = [path.parent for path in cache.glob(f"{name}-*/store.json")]
    total = sum(file.stat().st_size for store in stores for file in store.iterdir())
    return f"{total / 1e6:,.0f} MB" if stores else "no"
