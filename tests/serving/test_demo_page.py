"""The page of metalab demo in a real browser: pytest -m browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from metalab.training import train
from tests.cli.bench import ROOT
from tests.serving.demo_runs import saved

pytestmark = pytest.mark.browser
SLOW = 120  # seconds for what takes one, on a machine with other work
FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1360,960",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    """Chromium without a window, its profile new; skipped where it, its driver or gradio is missing."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    missing = [name for name in ("selenium", "gradio", "captum") if find_spec(name) is None]
    missing += [name for name, found in zip(("chromium", "chromedriver"), programs, strict=True) if found is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def demo(small, tiny_dir, browser, tmp_path_factory) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """`metalab demo` of a tiny run: its process, the page's address and the folder it was started in."""
    home = tmp_path_factory.mktemp("home")
    train.run(small(), home / "outputs/train/tiny")
    train.run(small("data.size=20"), home / "outputs/train/other")
    os.utime(home / "outputs/train/tiny/best.pt")  # the latest
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [f"--config-dir={tiny_dir}", "run=latest", f"demo.port={port}", "device=cpu"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "metalab", "demo", *words, "hydra.run.dir=outputs/demo/this"],
            cwd=home,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tiny_dir)])},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        until(lambda: "until Ctrl-C" in (home / "log").read_text() or process.poll() is not None)
        assert process.poll() is None, (home / "log").read_text()
        yield process, f"http://127.0.0.1:{port}/", home
    finally:
        process.kill()
        process.wait()


def until(found: Callable[[], Any]) -> Any:
    """Return what is found, as soon as it is something; the last error where that takes too long."""
    end = time.monotonic() + SLOW
    while True:
        try:
            if value := found():
                return value
            problem: Exception = TimeoutError("it did not come")
        except Exception as error:
            problem = error
        if time.monotonic() > end:
            raise problem
        time.sleep(0.2)


class Seen:
    """The page as a person sees it: elements by their ids."""

    def __init__(self, browser: Any) -> None:
        """Read the browser's page."""
        self.browser = browser

    def one(self, selector: str) -> Any:
        """Return an element."""
        return self.browser.find_element("css selector", selector)

    def text(self, name: str) -> str:
        """Return what a text box holds."""
        return self.one(f"#{name} textarea, #{name} input").get_property("value")

    def drop(self, name: str, *files: Path) -> None:
        """Upload files."""
        until(lambda: self.one(f"#{name} input[type=file]")).send_keys("\n".join(map(str, files)))

    def add_class(self, name: str, files: list[Path]) -> None:
        """Add a class with pictures."""
        self.one("#class-name textarea, #class-name input").send_keys(f"{name}\n")
        until(lambda: f"{name} (0)" in self.one("#classes").text)
        self.drop("support-files", *files)
        until(lambda: f"{name} ({len(files)})" in self.one("#classes").text)

    def warning(self, words: str) -> str:
        """Return the message that has these words."""
        return until(
            lambda: next(t for e in self.browser.find_elements("css selector", ".toast-body") if words in (t := e.text))
        )


def test_a_person_teaches_classes_and_reads_the_answer(demo, browser, tiny, tmp_path):
    _, url, _ = demo
    files = saved(tiny["test"], tmp_path / "pictures", 3, 6)
    page = Seen(browser)
    browser.get(url)
    until(lambda: "Add two classes" in page.text("expected"))
    for k, some in enumerate(files):
        page.add_class(f"class{k}", some[:5])
    until(lambda: "% of new images of these classes" in page.text("expected"))

    page.drop("query-file", files[1][5])
    said = until(lambda: page.text("answer"))
    assert re.fullmatch(r"class[012] \(\d+\.\d %\)", said)
    until(lambda: all(f"class{k}" in page.one("#probabilities").text for k in range(3)))
    until(lambda: page.one("#map img").get_attribute("src"))
    assert len(until(lambda: browser.find_elements("css selector", "#nearest img"))) == 5

    text = tmp_path / "text.png"
    text.write_text("no image")
    page.drop("support-files", text)
    assert "UnidentifiedImageError" in page.warning("text.png cannot be read and is left out")
    page.drop("query-file", text)
    page.warning("text.png cannot be read (")
    huge = tmp_path / "huge.png"
    huge.write_bytes(files[0][0].read_bytes() + bytes(33 * 2**20))
    page.drop("support-files", huge)
    page.warning("size")
    page.one("#class-name textarea, #class-name input").send_keys("a/b\n")
    page.warning("A class's name is a folder's")
    assert page.text("answer") == said  # the page goes on

    page.one("#folder textarea, #folder input").send_keys(str(tmp_path / "kept"))
    page.one("#save").click()
    page.warning("metalab predict support=")
    assert len(list((tmp_path / "kept").rglob("*.png"))) == 15

    page.one("#run input").click()
    until(lambda: next(e for e in browser.find_elements("css selector", "[role=option]") if "other" in e.text)).click()
    until(lambda: page.text("answer") not in ("", said))
    page.one("#remove-class").click()
    until(lambda: "class0" not in page.one("#classes").text or "class2" not in page.one("#classes").text)
    browser.save_screenshot(str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 20_000

    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert any(each.startswith(url) for each in urls)
    assert [each for each in urls if each.startswith(("http", "ws")) and not each.startswith(url)] == []


def test_ctrl_c_ends_it_and_leaves_no_picture(demo):
    process, url, home = demo
    process.send_signal(signal.SIGINT)
    assert process.wait(SLOW) == 0
    said = (home / "log").read_text()
    assert said.endswith(f"stopped; the page was at {url}\n")
    assert "Traceback" not in said
    left = sorted(path.name for path in (home / "outputs/demo/this").iterdir())
    assert left == [".hydra", "demo.log"]
