"""report.html in a real browser: pytest -m browser."""

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalab.core.statistics import average_ranks
from metalab.evaluation.comparison.difficulty import difficulty
from metalab.evaluation.comparison.ranking import rank
from metalab.tracking import compare_report
from metalab.tracking.comparison.records import Comparison, DataResult, Method, RunResult, ShownEpisode

pytestmark = pytest.mark.browser
ODD = """<b>x&"'<script>document.title='changed'</script>"""
FLAGS = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking")
FLAGS = (*FLAGS, "disable-component-update", "disable-sync")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    """Chromium without a window, its profile new; skipped where it, its driver or selenium is missing."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs or find_spec("selenium") is None:
        pytest.skip("not installed: chromium, chromedriver or selenium")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of three methods on two data sets, with numbers made up: every section is there."""
    draw = np.random.default_rng(0)
    methods = [Method(label, (i,), (0,)) for i, label in enumerate(("protonet", "maml", ODD))]
    labels = [method.label for method in methods]
    data = []
    for name, shift in (("tiny", 0.02), ("glyphs", 0.05)):
        hard = draw.random(40) / 2
        results = [_result(hard + shift * i, ODD if i == 2 else f"runs/{i}") for i in range(3)]
        rows, level = rank(methods, results, "episodes", 0.05)
        image = draw.integers(0, 255, (4, 1, 20, 20), dtype=np.uint8)
        labelled = np.array([0, 0, 1, 1])
        answers = {label: draw.integers(-1, 2, 4) for label in labels}
        shown = [ShownEpisode(3, "so", ["a", ODD], image[:2], labelled[::2], image, labelled, answers)]
        data.append(DataResult(name, "5-way", "episodes", results, rows, level, difficulty(methods, results), shown))
    made = {"command": f"metalab train {ODD}", "versions": {"torch": "2"}, "git": {"commit": "ab", "dirty": True}}
    lines = [{"step": s, "val/accuracy": s / 10, "train/loss": 1 / s} for s in (1, 2, 3)]
    ranks = average_ranks(np.array([[run.accuracy.mean() for run in each.runs] for each in data]))
    settings = {"algo.name": ["protonet", "maml", ODD]}
    comparison = Comparison(0.05, methods, labels, data, ranks, settings, [made] * 3, [lines] * 3, [f"note {ODD}"])
    out = tmp_path_factory.mktemp("report")
    compare_report.write(out, comparison)
    return out / "report.html"


def _result(accuracy: np.ndarray, folder: str) -> RunResult:
    attack = {"name": "pgd", "norm": "linf", "on": "query", "eps": 8.0, "accuracy": 0.1, "ci95": 0.01}
    record = {"accuracy": float(accuracy.mean()), "ci95": 0.02, "way": 5, "step": 3, "attacks": [attack]}
    classes = {"class": ["a", ODD], "accuracy": [0.2, 0.9]}
    return RunResult(folder, record, accuracy, classes, [(0.2, 0.01), (0.5, 0.01)], [], True, True)


def test_the_page_is_read_without_a_network_and_without_a_complaint(report, browser, tmp_path):
    browser.get_log("performance")  # of the browser's start
    browser.get(report.as_uri())
    table = browser.find_element("css selector", "table")
    assert "difference to the best" in table.text
    assert all(label in table.text for label in ("protonet", "maml", ODD))
    assert browser.title == "Comparison of runs"
    assert browser.find_elements("css selector", "b, script") == []
    headings = [each.text for each in browser.find_elements("css selector", "h2")]
    assert headings == [
        "Result", "What to keep in mind", "Training", "Adaptation", "Under attack", "Classes",
        "Difficulty of the episodes", "Episodes", "Settings that differ", "What made each run",
    ]  # fmt: skip
    drawn = browser.execute_script("return [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt])")
    assert len(drawn) > 12
    assert all(whole and alt for whole, alt in drawn)
    assert browser.get_log("browser") == []  # the console
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert report.as_uri() in urls
    assert [url for url in urls if url.startswith(("http", "ws"))] == []
    assert {url for url in urls if url.startswith("file:")} == {report.as_uri()}


@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_is_wider_than_the_window(report, browser, width, tmp_path):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(report.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    narrow = browser.execute_script("return [...document.querySelectorAll('figure > img')].map(i => i.clientWidth)")
    assert max(narrow) <= width
    colours = []
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]
