"""Quick, Draw! (Jongejan et al., 2016): drawings of 345 things by players of a game, Meta-Dataset's split."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.published import PublishedDataset, check_size
from metalab.data.formats.layouts import Layout, SourceImage
from metalab.data.storage.store import Store

OFFICIAL = class_splits("quickdraw_metadataset")
LONG = "full_numpy_bitmap_"  # before each name where the files were fetched by a browser


def bitmaps(root: Path, images: int) -> Layout | None:
    """Recognise NAME.npy, uint8 [N,784], a file a class; the first `images` drawings of each are taken."""
    files = {path.stem.removeprefix(LONG): path for path in sorted(root.glob("*.npy"))}
    if not files:
        return None

    def pictures() -> Iterator[SourceImage]:
        for name, path in files.items():
            for i, flat in enumerate(_read(path)[:images]):
                image = np.array(flat).reshape(28, 28)
                yield SourceImage(name, name, f"{path.name}#{i}", partial(Image.fromarray, image))

    note = f"the first {images:,} drawings of each class"
    return Layout("bitmaps", list(files.values()), lambda: dict.fromkeys(files), pictures, images * len(files), note)


def _read(path: Path) -> np.ndarray:
    try:
        drawings = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no sound npy file ({error}). Fetch it anew.") from error
    if drawings.dtype != np.uint8 or drawings.ndim != 2 or drawings.shape[1] != 784:
        raise UserError(
            f"{path}: expected uint8 [N,784], found {drawings.dtype} {list(drawings.shape)}. Fetch it anew."
        )
    return drawings


def _benchmark(images: int) -> PublishedDataset:
    return PublishedDataset(
        title="Quick, Draw!",
        option="quickdraw",
        protocol=f"metadataset-{images}",
        prefix="quickdraw",
        splits=OFFICIAL,
        whose="its 345 things",
        images=images * len(OFFICIAL),
        recognise=(partial(bitmaps, images=images),),
        layouts="  345 files, airplane.npy, ...: gsutil -m cp 'gs://quickdraw_dataset/full/numpy_bitmap/*.npy' FOLDER",
        why="its 345 files, 39 GB, are published without checksums",
        channels=1,
    )


@dataclass(frozen=True)
class QuickDraw:
    """Serve Quick, Draw! as [1,size,size], ink 255 on 0, 241/52/52 classes (Triantafillou et al., 2020)."""

    root: str | None = None
    cache: str | None = None
    size: int = 28
    images: int = 1000

    def __post_init__(self) -> None:
        check_size(self.size, 28)
        if not 2 <= self.images <= 100_000:
            raise UserError(f"data.images={self.images}: expected 2 to 100000 drawings a class; type data.images=1000")

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with what to fetch, or what is wrong with data.root."""
        return _benchmark(self.images).split(self._store, split)

    @cached_property
    def _store(self) -> Store:
        return _benchmark(self.images).store(self.root, self.cache, self.size)
