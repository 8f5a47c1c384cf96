"""What the user gives: a folder and what is in it, archives read without unpacking, the shipped class lists."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from metalab.config.paths import given_path
from metalab.core.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg")


def given_folder(root: str) -> Path:
    """Return `data.root` as an absolute folder; UserError where there is none."""
    folder = given_path(root, "data.root", "/path/to/the/folder").absolute()
    if not folder.is_dir():
        raise UserError(
            f"data.root={root}: {'this is a file' if folder.exists() else 'there is no such folder'}"
            f" ({folder}). A folder is expected: type data.root=/path/to/the/folder."
        )
    return folder


def tree(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield every visible file below `folder`, sorted, links followed but those back to a folder `above`.

    UserError where a folder cannot be read, or a link leads to nothing.
    """
    above = (*above, os.path.realpath(folder))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}). Type chmod -R u+rX {folder}, or mend it."
        ) from error
    for entry in entries:
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link to {os.readlink(entry.path)}, which is not there: remove it.")
        if entry.is_dir():
            if os.path.realpath(entry.path) not in above:
                yield from tree(Path(entry.path), above)
        else:
            yield Path(entry.path)


def fingerprint(root: Path, files: Iterable[Path]) -> dict[str, int | str]:
    """Return what tells these files from others without reading them: names, sizes [bytes] and times of change.

    changed: when the system last saw each change (ctime), which no program can set back.
    """
    digest, changed, count, size = hashlib.sha256(), hashlib.sha256(), 0, 0
    start = len(str(root)) + 1  # strings, for pathlib takes a second more on 60,000 files
    for path in files:
        seen = os.stat(path)
        digest.update(f"{str(path)[start:]}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        changed.update(f"{seen.st_ctime_ns}\n".encode())
        count, size = count + 1, size + seen.st_size
    return {"files": count, "bytes": size, "digest": digest.hexdigest(), "changed": changed.hexdigest()}


def zip_members(path: Path, endings: tuple[str, ...] = IMAGES) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the members with these endings, sorted by name; nothing is unpacked to the disk.

    UserError where the file is no zip, is damaged, or names a member outside of itself.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            for name in names:
                parts = PurePosixPath(name.replace("\\", "/"))
                if not name or parts.is_absolute() or ".." in parts.parts or ":" in "".join(parts.parts[:1]):
                    where = "outside of itself" if name else "without a name"
                    raise UserError(f"{path} names a file {where} ('{name}'): it is not to be trusted.")
            for name in names:
                if name.lower().endswith(endings) and not name.startswith("__MACOSX"):
                    yield name, archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is no sound zip file ({error}). Fetch it again; nothing of it was used.") from error
