"""The package's rooms stand in layers: a room imports from rooms below its own, and from no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import metalab

PACKAGE = Path(metalab.__file__).parent
LAYERS = (  # from the top down
    ("__main__",),
    ("cli",),
    ("training", "serving"),
    ("evaluation",),
    ("engines", "regularizers", "ingredients"),
    ("algorithms",),
    ("data", "models", "attacks", "tracking"),
    ("config", "distributed", "interfaces"),
    ("core",),
)
DATA = (
    ("datasets",),
    ("formats",),
    ("storage", "sampling", "identity", "corruptions"),
    ("class_lists",),
)  # the rooms within data/
FACES = {"interfaces", "ingredients"}  # what users import and no room does
MOST_FILES = 25  # in a folder


def layer(room: str, layers: tuple[tuple[str, ...], ...]) -> int:
    """Return how far down a room stands; KeyError, with its name, for a room that the table does not have."""
    for i, rooms in enumerate(layers):
        if room in rooms:
            return i
    raise KeyError(f"{room} stands in no layer of tests/test_layers.py")


def imported(source: str) -> Iterator[str]:
    """Give the dotted paths below metalab that a module imports: in functions and for type checkers, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            if node.module == "metalab":
                yield from (f"metalab.{name.name}" for name in node.names if not name.name.startswith("__"))
            elif node.module.startswith("metalab."):
                yield node.module
                yield from (f"{node.module}.{name.name}" for name in node.names if node.module.count(".") == 1)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("metalab."))


def upward(module: str, source: str) -> list[str]:
    """Return what a module imports that does not stand below it; its own room, and metalab itself, are free."""
    path, found = module.split("."), []
    for other in imported(source):
        there = other.split(".")
        room, its = path[1], there[1]
        if its != room:
            below = layer(its, LAYERS) > layer(room, LAYERS)
            if not below or its in FACES:
                found.append(f"{module} imports {other}")
        elif room == "data" and len(path) > 2 and len(there) > 2 and path[2] != there[2]:
            known = {name for rooms in DATA for name in rooms}
            if path[2] in known and there[2] in known and layer(there[2], DATA) <= layer(path[2], DATA):
                found.append(f"{module} imports {other}")
    return found


def modules() -> list[tuple[str, Path]]:
    """Return the dotted path and the file of every module of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if dotted != "metalab":
            found.append((dotted, path))
    return found


def test_no_module_imports_from_its_own_layer_or_a_higher_one():
    found = [line for dotted, path in modules() for line in upward(dotted, path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metalab.core.text", "from metalab.config.schema import Task"),
        ("metalab.models.layers", "def build():\n    from metalab.algorithms import MAML"),
        ("metalab.data.storage.store", "if TYPE_CHECKING:\n    from metalab.training import train"),
        ("metalab.evaluation.measure", "import metalab.training.loop as loop"),
        ("metalab.attacks.pgd", "from metalab import data"),
        ("metalab.attacks.pgd", "from metalab.models.layers import Normalize"),
        ("metalab.data.sampling.gather", "from metalab.data.storage.store import Store"),
        ("metalab.data.formats.idx", "from metalab.data.datasets.folder import Folder"),
        ("metalab.training.setup", "from metalab.interfaces import Split"),
    ],
)
def test_an_import_that_goes_up_or_to_a_neighbour_is_found(module, source):
    assert len(upward(module, source)) >= 1


def test_an_import_that_goes_down_is_none_of_them():
    source = "import torch\nfrom metalab import __version__\nfrom metalab.core.errors import UserError\n"
    assert upward("metalab.models.layers", source) == []
    assert upward("metalab.data.datasets.folder", "from metalab.data.storage.store import Store") == []
    with pytest.raises(KeyError, match="rooftop stands in no layer"):
        upward("metalab.cli.app", "import metalab.rooftop")


def test_there_are_at_most_15_rooms_and_no_folder_is_crowded():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ("__pycache__", "conf")}
    assert len(rooms - FACES) <= 14
    for folder in [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "splits")]:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder} has {len(files)} files"
