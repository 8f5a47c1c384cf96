"""Downloads against a server that drops connections, sends half, sends web pages, sends the wrong file."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from metalab.core.errors import UserError
from metalab.data.formats.download import fetch

DATA = bytes(range(256)) * 1000
SUM = f"md5:{hashlib.md5(DATA).hexdigest()}"
HAND = "By hand: put it into a folder and type data.root=/that/folder."

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answer each request by the next of `script`, the last one for ever."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range"))
                answer = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/data.zip"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def send(
    request: BaseHTTPRequestHandler, body: bytes, length: int | None = None, kind: str = "application/zip"
) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.send_header("Content-Type", kind or "application/zip")
    request.end_headers()
    request.wfile.write(body)


def whole(request: BaseHTTPRequestHandler) -> None:
    send(request, DATA)


def ranged(request: BaseHTTPRequestHandler) -> None:
    asked = request.headers.get("Range")
    if not asked:
        return whole(request)
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(DATA):
        return request.send_error(416)
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
    request.send_header("Content-Length", str(len(DATA) - start))
    request.end_headers()
    request.wfile.write(DATA[start:])
    return None


def half(request: BaseHTTPRequestHandler) -> None:
    send(request, DATA[:100_000], length=len(DATA))


def drop(request: BaseHTTPRequestHandler) -> None:
    request.connection.close()


def page(request: BaseHTTPRequestHandler) -> None:
    send(request, b"<html>Please sign in</html>", kind="text/html; charset=utf-8")


def disguised_page(request: BaseHTTPRequestHandler) -> None:
    send(request, b"\n<!DOCTYPE html><html>Quota exceeded</html>")


def wrong(request: BaseHTTPRequestHandler) -> None:
    send(request, DATA[::-1])


def gone(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def busy(request: BaseHTTPRequestHandler) -> None:
    request.send_error(503)


def get(urls, to):
    return fetch(urls, SUM, to, HAND, wait=0.01)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_plain_download_is_fetched_once(server, tmp_path):
    server.script = [whole]
    assert get([server.url], tmp_path / "new" / "data.zip").read_bytes() == DATA
    get([server.url], tmp_path / "new" / "data.zip")
    assert server.ranges == [None]
    assert names(tmp_path / "new") == {"data.zip"}


def test_a_broken_connection_goes_on_where_it_broke(server, tmp_path):
    server.script = [drop, busy, half, ranged]
    assert get([server.url], tmp_path / "data.zip").read_bytes() == DATA
    assert server.ranges == [None, None, None, "bytes=100000-"]


def test_a_server_that_knows_no_ranges_starts_over(server, tmp_path):
    server.script = [half, whole]
    assert get([server.url], tmp_path / "data.zip").read_bytes() == DATA


def test_an_earlier_runs_part_is_taken_up(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(DATA[:1000])
    server.script = [ranged]
    assert get([server.url], tmp_path / "data.zip").read_bytes() == DATA
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("part", [DATA, DATA + b"more", b"x" * 1000])
def test_a_part_that_is_whole_or_foreign_does_no_harm(server, tmp_path, part):
    (tmp_path / "data.zip.part").write_bytes(part)
    server.script = [ranged]
    assert get([server.url], tmp_path / "data.zip").read_bytes() == DATA
    assert names(tmp_path) == {"data.zip"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page, "the server sent a web page instead of the file"),
        (disguised_page, "the server sent a web page instead of the file"),
        (wrong, "its checksum is md5:"),
        (gone, "the server answered 404"),
        (busy, r"the server answered 503 .*\(4 tries\)"),
        (drop, r"\(4 tries\)"),
    ],
)
def test_failure_says_why_and_what_to_do_by_hand_and_leaves_nothing(server, tmp_path, answer, reason):
    server.script = [answer]
    with pytest.raises(UserError, match=reason) as caught:
        get([server.url], tmp_path / "data.zip")
    assert "data.zip could not be downloaded" in str(caught.value)
    assert server.url in str(caught.value)
    assert str(caught.value).endswith(HAND)
    assert names(tmp_path) == set()


def test_half_a_file_is_never_taken_for_the_whole(server, tmp_path):
    server.script = [half]
    with pytest.raises(UserError, match=r"the connection broke after 100,000 of 256,000 bytes \(4 tries\)") as caught:
        get([server.url], tmp_path / "data.zip")
    assert "100,000 bytes are kept; the next try goes on from there" in str(caught.value)
    assert names(tmp_path) == {"data.zip.part"}


@pytest.mark.parametrize("first", [page, wrong, gone, drop])
def test_the_next_mirror_is_tried(server, tmp_path, first):
    other = Server()
    server.script, other.script = [first], [whole]
    try:
        assert get([server.url, other.url], tmp_path / "data.zip").read_bytes() == DATA
    finally:
        other.http.shutdown()
        other.http.server_close()


def test_no_server_at_all(tmp_path):
    with pytest.raises(UserError, match="no connection"):
        get(["http://127.0.0.1:9/data.zip"], tmp_path / "data.zip")


def test_a_file_that_was_changed_is_fetched_again(server, tmp_path):
    (tmp_path / "data.zip").write_bytes(b"tampered")
    server.script = [whole]
    assert get([server.url], tmp_path / "data.zip").read_bytes() == DATA
