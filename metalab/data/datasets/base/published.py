"""A published data set whose classes are split by a list: any recognised copy of it -> one store."""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.core.text import first_names
from metalab.data.formats import image_decode
from metalab.data.formats.download import Published, fetch_all
from metalab.data.formats.file_tree import fingerprint, given_folder
from metalab.data.formats.layouts import Layout, SourceImage
from metalab.data.identity.class_ids import PUBLISHED, repeated
from metalab.data.storage.store import Store, cache_folder, explain_unusable, open_existing, open_or_build
from metalab.data.storage.writer import Record

log = logging.getLogger("metalab.data")


@dataclass(frozen=True)
class PublishedDataset:
    """What is published about a data set, and the forms in which people have it."""

    title: str  # "miniImageNet"
    option: str  # its name on the command line
    protocol: str  # which of the splits, a word for the store's name
    prefix: str  # of the global class ids, "imagenet"
    splits: Mapping[str, str]  # class -> train, val or test
    whose: str  # "Ravi and Larochelle's 64/16/20 classes"
    images: int  # in all its splits
    recognise: tuple[Callable[[Path], Layout | None], ...]
    layouts: str  # the same for people, one a line
    downloads: tuple[Published, ...] = ()  # with these in a folder it is recognised
    why: str = ""  # it has to be given where there are none, "its images may not be passed on"
    channels: int = 3  # 1 (grey) or 3 (RGB)
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # class -> its id, where another data set has the same
    tested: str | tuple[str, ...] = ""  # what the files of its test images begin with, where it splits images

    def store(self, root: str | None, cache: str | None, size: int) -> Store:
        """Return the store of images [channels,size,size]; UserError with data.root's layouts, or what is wrong."""
        settings: dict[str, Any] = {"data": self.option, "protocol": self.protocol, "size": size}
        folder = cache_folder(cache) / f"{self.option}-{self.protocol}-{size}"
        if root is None and (store := open_existing(folder, settings)):
            return store
        if root is not None:  # then only that is read: never a download, never what was made from elsewhere
            where = given_folder(root)
        elif self.downloads:
            where = cache_folder(cache) / "downloads" / self.option
            fetch_all(self.downloads, where)
        else:
            there = f"{folder} holds none yet"
            if folder.exists():
                there = f"What was prepared in {folder} cannot be used: {explain_unusable(folder)}; so give it again"
            raise UserError(
                f"{self.title} has to be given once, for {self.why}. {there}.\n"
                f"Type data.root=/path/to/a/folder, which holds one of\n{self.layouts}"
            )
        layout = self._recognised(where)
        source = {"layout": layout.name, "source": fingerprint(where, layout.files), "note": layout.note}
        return open_or_build(folder, {**settings, **source}, lambda: self._records(where, layout, size), layout.total)

    def split(self, store: Store, name: str) -> Split:
        """Return a split of the store, noting how its images differ from the published ones."""
        self._require({class_id for kept in store.splits.values() for class_id in kept["ids"]}, store.folder)
        loaded = store.split(name)
        held = sum(len(kept["files"]) for kept in store.splits.values())
        fewer = f"{held:,} images instead of {self.images:,}" if held != self.images else ""
        copies = repeated(loaded.image_ids, loaded.count.tolist())
        twice = f"{copies} images are copies of others of their class" if copies else ""
        return replace(loaded, note="; ".join(filter(None, [store.recipe["note"], fewer, twice])))

    def _recognised(self, root: Path) -> Layout:
        for recognise in self.recognise:
            if layout := recognise(root):
                return layout
        raise UserError(f"data.root={root} is not laid out as {self.title}. It should hold one of\n{self.layouts}")

    def _records(self, root: Path, layout: Layout, size: int) -> Iterator[Record]:
        log.info("Reading %s as %s.", root, layout.name)
        self._check(root, layout.classes())
        pictures = layout.pictures()
        unread: list[str] = []
        found: set[str] = set()
        with ThreadPoolExecutor(2) as pool:  # Pillow decodes beside the interpreter; a few at a time, memory stays flat
            while some := list(islice(pictures, 256)):
                decoded = pool.map(lambda one: _decoded(one, size, self.channels), some)
                for picture, image in zip(some, decoded, strict=True):
                    if isinstance(image, str):
                        unread.append(f"{root / picture.file} cannot be read ({image})")
                        continue
                    class_id, split = self._class_id(picture.class_name), self.splits[picture.class_name]
                    found.add(class_id)
                    image_id = f"{PUBLISHED}{image.digest[:16]}"
                    yield Record(image.pixels, class_id, picture.shown, split, picture.file, image_id)
        if unread:
            raise UserError(
                f"{'; '.join(unread[:10])}{f'; and {len(unread) - 10} more' if len(unread) > 10 else ''}; "
                "a benchmark has to be whole. Fetch these files anew."
            )
        self._require(found, root)

    def _class_id(self, name: str) -> str:
        return self.elsewhere.get(name, f"{self.prefix}:{name}")

    def _require(self, found: set[str], where: Path) -> None:
        """Raise UserError where classes of the published split have no image; `found` are the ids of those that do."""
        without = [name for name in self.splits if self._class_id(name) not in found]
        if without:
            raise UserError(
                f"{where}: {len(without)} of the {len(self.splits)} classes of {self.title} have no image: "
                f"{first_names(without)}; a benchmark has to be whole. Fetch it anew and type data.root=/path/to/it."
            )

    def _check(self, root: Path, found: dict[str, str | None]) -> None:
        """Raise UserError unless these are the published classes, each in its own split where the layout names one."""
        wrong = [f"{name} does not belong to {self.title}" for name in found if name not in self.splits]
        for name, split in self.splits.items():
            if name not in found:
                wrong.append(f"{name} of {split} is missing")
            elif found[name] not in (None, split):
                wrong.append(f"{name} stands in {found[name]} and belongs to {split}")
        if wrong:
            more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise UserError(
                f"data.root={root} does not hold {self.whose}: {'; '.join(wrong[:5])}{more}. "
                "For other classes type data=folder data.root=... instead."
            )


def check_size(size: int, usual: int) -> None:
    """Raise UserError unless `size` is a number of pixels that images can be made."""
    if not 8 <= size <= 512:
        raise UserError(
            f"data.size={size} is out of range: 8 to 512 pixels, {usual} in most papers: data.size={usual}."
        )


def _decoded(picture: SourceImage, size: int, channels: int) -> image_decode.DecodedImage | str:
    """Return uint8 [channels,size,size], scaled without regard to its proportions; or why there is none."""
    try:
        opened = picture.open()
        image = opened.convert("RGB" if channels == 3 else "L")
        digest = image_decode.digest(opened, picture.open)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return image_decode.DecodedImage(pixels.transpose(2, 0, 1) if channels == 3 else pixels[None], digest)
