"""A folder or an archive as one thing: the names of its files and the bytes of each; nothing is ever unpacked."""

import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metalab.core.errors import UserError
from metalab.data.formats.file_tree import tree

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)


class Files(NamedTuple):
    """What is below a folder, or below the folder of the same name in an archive."""

    where: Path  # the folder or the archive
    names: list[str]  # relative to that folder, / between folders; of an archive in its own order, fastest to read in
    read: Callable[[str], bytes]

    def stamped(self) -> list[Path]:
        """Return the files whose sizes and times tell this source from another."""
        return [self.where] if self.where.is_file() else [self.where / name for name in self.names]


def found(root: Path, folder: str, archives: tuple[str, ...] = ()) -> Files | None:
    """Return what is in root/folder, in root itself where that is its name, or in one of these archives in root.

    Where there is a folder of that name within the folder, as torchvision makes for some, that is taken.
    """
    for place in (root / folder / folder, root / folder, root):
        if place.name == folder and place.is_dir():
            names = [path.relative_to(place).as_posix() for path in tree(place)]
            return Files(place, names, partial(_bytes, place))
    for path in (root / name for name in archives):
        if path.is_file():
            return (_zip if path.suffix == ".zip" else _tar)(path, folder)
    return None


def _bytes(place: Path, name: str) -> bytes:
    return (place / name).read_bytes()


def _tar(path: Path, folder: str) -> Files:
    try:
        archive = tarfile.open(path)  # noqa: SIM115 (as long as there are images to come)
        members = {member.name: member for member in archive.getmembers() if member.isfile()}
    except DAMAGED as error:
        raise _unsound(path, error) from error
    names = _below(path, list(members), folder)
    lock = threading.Lock()  # one place in one file, and images are decoded by several threads

    def read(name: str) -> bytes:
        with lock:
            file = archive.extractfile(members[names[name]])
            return b"" if file is None else file.read()

    return Files(path, list(names), partial(_guarded, read, path))


def _zip(path: Path, folder: str) -> Files:
    try:
        archive = zipfile.ZipFile(path)
        names = _below(path, [name for name in archive.namelist() if not name.endswith("/")], folder)
    except DAMAGED as error:
        raise _unsound(path, error) from error
    return Files(path, list(names), partial(_guarded, lambda name: archive.read(names[name]), path))


def _below(path: Path, members: list[str], folder: str) -> dict[str, str]:
    """Return the archive's members below `folder` by their names relative to it, hidden ones left out."""
    names = {}
    for member in members:
        parts = PurePosixPath(member.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise UserError(f"{path} names a file outside of itself ('{member}'): it is not to be trusted.")
        if folder in parts[:-1] and not any(part.startswith((".", "__MACOSX")) for part in parts):
            names["/".join(parts[parts.index(folder) + 1 :])] = member
    return names


def _guarded(read: Callable[[str], bytes], path: Path, name: str) -> bytes:
    try:
        return read(name)
    except DAMAGED as error:
        raise _unsound(path, error) from error


def _unsound(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no sound archive ({error}). Fetch it again; nothing of it was used.")
