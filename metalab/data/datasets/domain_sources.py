"""Where the images of one domain come from: a folder of domain folders, PACS's packed file, a data set by its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metalab.config.instantiate import build, locate
from metalab.config.paths import conf_dir, given_path
from metalab.config.validate import suggest
from metalab.core.errors import UserError
from metalab.core.interfaces import Data, Split
from metalab.data.datasets.base.class_split import ClassSplitDataset
from metalab.data.datasets.base.image_split import DRAWN
from metalab.data.datasets.folder import Folder
from metalab.data.datasets.photos.pacs import DOMAINS
from metalab.data.formats.class_tree import SPLITS
from metalab.data.formats.file_tree import tree

SIZE = 84  # pixels, of folders, where nobody says another
EXAMPLE = "data.root=/path/to/a/folder/of/domain/folders"


@dataclass(frozen=True)
class Reading:
    """What all domains have in common."""

    size: int | None  # pixels; None: a domain's own
    channels: int  # of folders, 1 or 3
    cache: str | None
    seed: int


@dataclass(frozen=True)
class Domain:
    """One domain's data set, whose images are split; what is wrong with it is told of the keys that were typed."""

    name: str
    data: Data
    key: str  # what its data.root was typed as

    def load(self, split: str) -> Split:
        """Return its train, val or test images; UserError where it gives none, or splits classes."""
        try:
            found = self.data.load(split)
        except UserError as error:
            told = str(error).replace("data.root", self.key)
            raise type(error)(told if self.name in told else f"{self.name}: {told}") from error
        if not found.by_image or found.turns is not None:
            raise UserError(f"{self.name} gives no images of the same classes for training and test, as a domain does")
        return found


def domain_names(root: str) -> list[str]:
    """Return the domains below data.root, sorted: PACS's, packed, else the folders in it; UserError for none."""
    folder, packed = _place(root)
    if packed:
        return list(DOMAINS)
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__", "@", "#")))
    if not found or set(found) <= set(SPLITS):
        raise UserError(
            f"data.root={root} has no domain folders: expected DOMAIN/CLASS/*.jpg in it, as photo/dog/1.jpg, or "
            "PACS's packed npz"
        )
    return found


def domain_of_root(root: str, name: str, how: Reading) -> Domain:
    """Return one of the domains below data.root; without a size that of PACS's images, and of folders 84 pixels."""
    folder, packed = _place(root)
    if packed:
        node = {**_yaml("pacs"), "root": str(folder), "domain": name, "cache": how.cache, "seed": how.seed}
        return Domain(name, build(node | ({"size": how.size} if how.size else {}), "data"), "data.root")
    home = folder / name
    if not any(True for _ in tree(home)):
        raise UserError(f"{home} is empty: expected a folder a class, each with images")
    node = {**_yaml("folder"), "root": str(home), "cache": how.cache, "seed": how.seed, "protocol": "images"}
    node |= {"ratios": list(DRAWN), "size": how.size or SIZE, "channels": how.channels}
    return Domain(name, build(node, "data"), "data.root")


def domain_of_data_set(name: str, root: str | None, how: Reading, key: str) -> Domain:
    """Return a data set of conf/data as a domain; UserError for a name that is none, or whose classes alone are split.

    key: what its root is typed as.
    """
    node = _yaml(name)
    kind = locate(node["_target_"], "data._target_")
    if kind is not Folder and not issubclass(kind, ClassSplitDataset):
        raise UserError(f"{name} splits classes alone, and a domain has the same classes in training and test")
    node |= {"root": root, "cache": how.cache, "seed": how.seed, "protocol": "images"}
    node |= {"size": how.size or native_size(name)} | ({"channels": how.channels} if "channels" in node else {})
    return Domain(name, build(node, "data"), key)


def native_size(name: str) -> int:
    """Return the size of a data set's images where nobody says another."""
    return _yaml(name).get("size") or SIZE


def _yaml(name: str) -> dict[str, Any]:
    """Return the settings of a data set by its name; UserError for one that is none of ours."""
    names = sorted(path.stem for path in (conf_dir() / "data").glob("*.yaml"))
    if name not in names or name in ("domains", "union"):
        known = [each for each in names if each not in ("domains", "union")]
        raise UserError(
            f"{name} is no data set that can be a domain.{suggest(name, known)} For a folder of domain folders type "
            f"{EXAMPLE}"
        )
    held: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "data" / f"{name}.yaml"))
    return held


def _place(root: str) -> tuple[Path, bool]:
    """Return the folder that data.root is, or is in, and whether it holds a packed file; UserError for neither."""
    given = given_path(root, "data.root", EXAMPLE.partition("=")[2]).absolute()
    if given.is_file() and given.suffix == ".npz":
        return given.parent, True
    if not given.is_dir():
        what = "is a file" if given.exists() else "does not exist"
        raise UserError(f"data.root={root} {what}: expected a folder of domain folders, or PACS's npz; type {EXAMPLE}")
    return given, any(given.glob("*.npz"))
