"""Downloads that survive the world: mirrors, resume, retry with back-off; nothing is used before its checksum holds."""

import hashlib
import http.client
import logging
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from metalab.core.errors import UserError
from metalab.data.storage.store import writing

ATTEMPTS = 4  # a mirror; the waits between them are 1, 2 and 4 s
TIMEOUT = 30  # s without a byte
PIECE = 1 << 16  # bytes read at a time
log = logging.getLogger("metalab.data")

WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)", re.IGNORECASE)
DROPPED = (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class Published(NamedTuple):
    """A file that is to be had for all."""

    name: str  # on the disk
    urls: tuple[str, ...]  # mirrors of one another
    checksum: str  # as published, "md5:..." or "sha256:..."


class _TryAgain(Exception):
    """The same address may do better in a moment."""


class _GiveUp(Exception):
    """This address will not do better."""


def fetch(urls: list[str], checksum: str, to: Path, by_hand: str, wait: float = 1.0) -> Path:
    """Return `to`, downloaded from the first of `urls` that yields a file of this checksum ("md5:..." or "sha256:...").

    What has come stays in a .part file beside it until it is whole, and the next try goes on from there.
    `wait` [s] is the first pause of the back-off. UserError with the reasons and `by_hand` when every address fails.
    """
    with writing(to.parent):
        to.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(to.with_name(to.name + ".lock")):
            if to.exists():
                if _sum_of(to, checksum) == checksum:
                    return to
                log.warning("%s does not have the published checksum and is fetched again.", to)
            part = to.with_name(to.name + ".part")
            reasons = []
            for url in urls:
                try:
                    _from_mirror(url, checksum, part, wait)
                except _GiveUp as error:
                    reasons.append(f"  {url}: {error}")
                    log.warning("%s: %s.", url, error)
                    continue
                part.replace(to)
                return to
    kept = f"\n{part.stat().st_size:,} bytes are kept; the next try goes on from there." if part.exists() else ""
    raise UserError(f"{to.name} could not be downloaded:\n" + "\n".join(reasons) + kept + "\n" + by_hand)


def fetch_all(files: tuple[Published, ...], folder: Path) -> None:
    """Bring these files into the folder; UserError that says how to do it by hand where one cannot be had."""
    listed = " and ".join(file.urls[0] for file in files)
    by_hand = f"By hand: fetch {listed}, put into one folder as it comes, and type data.root=/that/folder."
    for file in files:
        fetch(list(file.urls), file.checksum, folder / file.name, by_hand)


def _from_mirror(url: str, checksum: str, part: Path, wait: float) -> None:
    """Bring `part` to its full length and check it; _GiveUp with the reason after ATTEMPTS tries."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            log.info("%s: %s; trying again.", url, reason)
            time.sleep(wait * 2 ** (attempt - 1))
        resumed = part.exists()
        try:
            _receive(url, part)
        except _TryAgain as error:
            reason = str(error)
            continue
        found = _sum_of(part, checksum)
        if found == checksum:
            return
        part.unlink()
        reason = f"its checksum is {found}, the published one is {checksum}"
        if not resumed:  # a whole file in one go: the same would come again
            raise _GiveUp(reason)
    raise _GiveUp(f"{reason} ({ATTEMPTS} tries)")


def _receive(url: str, part: Path) -> None:
    """Ask for what `part` still lacks and append it; start over where the server cannot go on from there."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "metalab", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            _append(answer, part, have)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have: it is whole, or it is of another file
            return
        said = f"the server answered {error.code} {error.reason}"
        raise (_TryAgain if error.code in (408, 425, 429) or error.code >= 500 else _GiveUp)(said) from error
    except urllib.error.URLError as error:
        nowhere = isinstance(error.reason, socket.gaierror) and error.reason.errno == socket.EAI_NONAME
        raise (_GiveUp if nowhere else _TryAgain)(f"no connection ({error.reason})") from error
    except DROPPED as error:
        raise _TryAgain(f"the connection broke ({error or type(error).__name__})") from error


def _append(answer: http.client.HTTPResponse, part: Path, have: int) -> None:
    goes_on = re.match(rf"bytes {have}-", answer.headers.get("Content-Range", "")) is not None
    if answer.status == 206 and not goes_on:
        raise _GiveUp("the server sent another piece than the one asked for")
    start = have if answer.status == 206 else 0
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length else None
    piece = answer.read(PIECE)
    if answer.headers.get_content_type() == "text/html" or (start == 0 and WEB_PAGE.match(piece)):
        raise _GiveUp("the server sent a web page instead of the file")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    quiet = not sys.stderr.isatty()
    log.info("Downloading %s%s.", answer.url, f" from byte {start:,} on" if start else "")
    with (
        open(part, "ab" if start else "wb") as file,
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, disable=quiet) as bar,
    ):
        task = bar.add_task(part.stem, total=total, completed=start)
        while piece:
            file.write(piece)
            bar.advance(task, len(piece))
            piece = answer.read(PIECE)
        got = file.tell()
    if total is not None and got < total:
        raise _TryAgain(f"the connection broke after {got:,} of {total:,} bytes")


def _sum_of(path: Path, checksum: str) -> str:
    """Return the file's checksum by the same method as `checksum`, in the same form."""
    method = checksum.partition(":")[0]
    digest = hashlib.new(method)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return f"{method}:{digest.hexdigest()}"
