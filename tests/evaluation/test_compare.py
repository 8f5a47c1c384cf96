"""metalab compare: the same episodes for all, what may be compared, and what the files say."""

import csv
import json
import re
import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from metalab.core.errors import UserError
from metalab.core.statistics import mean_ci95, paired_difference
from metalab.evaluation import compare
from metalab.tracking import compare_report
from metalab.training import train

MAML = ("algo=maml", "train.meta_batch=1", "algo.steps=1", "algo.test_steps=2", "train.steps=2", "eval.bn=support")
RUNS = {"protonet0": (), "protonet1": ("seed=1",), "matching": ("algo=matching",), "maml": MAML}
ODD = """<b>x&"'"""


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory) -> dict[str, Path]:
    """Runs of a few steps, and a copy of one in a folder with an odd name."""
    home = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        cfg = small(*words)
        OmegaConf.save(cfg, (home / name).mkdir() or home / name / "config.yaml", resolve=True)
        train.run(cfg, home / name)
    shutil.copytree(home / "protonet0", home / ODD)
    return {name: home / name for name in (*RUNS, ODD)}


@pytest.fixture
def compared(small, folders, tmp_path, monkeypatch):
    """Compare runs, each with its own words; return the folder, what compare.json holds and the score."""

    def run(*names: str, page: bool = False, own: dict[str, tuple[str, ...]] | None = None):
        if not page:  # drawing it takes longer than the rest
            monkeypatch.setattr(compare_report, "_write_page", lambda path, comparison: None)
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        pairs = [(folders[name], _config(small, name, *(own or {}).get(name, ()))) for name in names]
        score = compare.run({"": pairs}, out)
        return out, json.loads((out / "compare.json").read_text(encoding="utf-8")), score

    return run


def _config(small: Any, name: str, *words: str) -> DictConfig:
    cfg = small(*RUNS.get(name, ()), "seed=0", "data.absent=''", "eval.episodes=12", *words)
    OmegaConf.set_struct(cfg, False)
    cfg.compare = {"data": None, "alpha": 0.05, "pictures": 2}
    return cfg


def episodes(out: Path) -> list[dict[str, str]]:
    with (out / "compare_episodes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """What a page's tags are, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def odd_pair(small, folders, tmp_path_factory):
    """A run beside its own copy, whose folder is called like markup."""
    out = tmp_path_factory.mktemp("odd") / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = [(folders[name], _config(small, name)) for name in ("protonet0", ODD)]
        compare.run({"": pairs}, out)
    return out, json.loads((out / "compare.json").read_text(encoding="utf-8"))


def test_a_run_does_not_differ_from_its_copy(odd_pair):
    out, held = odd_pair
    [data] = held["data"]
    best, other = data["rows"]
    assert best["best"]
    assert other["episodes"] == {"mean": 0, "low": 0, "high": 0, "p": 1}
    assert (other["wilcoxon"], other["episodes_holm"], other["significant"]) == (1, 1, False)
    assert other["ranked"]
    assert {float(row["disagreement"]) for row in episodes(out)} == {0}


def test_a_folder_may_be_called_like_markup(odd_pair):
    out, held = odd_pair
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert f"protonet ({Path(held['data'][0]['runs'][1]['folder'])})" in page.text
    assert ODD in page.text
    assert "<b>" not in text
    assert "b" not in {tag for tag, _ in page.tags}
    latex, markdown = ((out / f"compare.{kind}").read_text(encoding="utf-8") for kind in ("tex", "md"))
    assert r"\textless{}b\textgreater{}x\&" in latex
    assert "&lt;b&gt;x&amp;" in markdown
    assert "<b>" not in markdown


def test_the_page_needs_nothing_else_and_says_what_its_pictures_show(compared):
    out, _, _ = compared("protonet0", "matching", "maml", page=True)
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) > 20
    assert all(str(each["src"]).startswith("data:image/") and each["alt"] for each in images)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.tags}
    sources = [str(a[key]) for _, a in page.tags for key in ("src", "href") if a.get(key)]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import", text)
    heads = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert heads
    assert set(heads) == {"col", "row"}
    for heading in ("Result", "Training", "Adaptation", "Classes", "Difficulty", "Episodes", "Settings that differ"):
        assert heading in page.text
    assert "algo.name" in page.text


def test_the_numbers_are_those_of_the_episodes(compared):
    out, held, score = compared("protonet0", "matching")
    rows = episodes(out)
    own = {name: np.array([float(row[name]) for row in rows]) for name in ("protonet", "matching")}
    best, other = held["data"][0]["rows"]
    assert score == best["mean"] == max(values.mean() for values in own.values())
    assert len(rows) == 12
    expected = paired_difference(own[other["method"]], own[best["method"]])
    assert tuple(other["episodes"].values()) == pytest.approx(expected)
    assert best["high"] - best["mean"] == pytest.approx(mean_ci95(own[best["method"]])[1])
    mean = (own["protonet"] + own["matching"]) / 2
    assert [float(row["mean_accuracy"]) for row in rows] == pytest.approx(mean.tolist())
    hardest = min(rows, key=lambda row: int(row["difficulty_rank"]))
    assert float(hardest["mean_accuracy"]) == mean.min()
    with (out / "compare.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [best["method"], other["method"]]
    assert float(table[1]["episodes_p"]) == other["episodes"]["p"]
    assert "\\textbf{" in (out / "compare.tex").read_text(encoding="utf-8")


def test_seeds_are_a_level_of_their_own(compared):
    _, held, _ = compared("protonet0", "matching", "protonet1")
    assert [(m["label"], m["runs"], m["seeds"]) for m in held["methods"]] == [
        ("protonet", [0, 2], [0, 1]),
        ("matching", [1], [0]),
    ]
    [data] = held["data"]
    row = next(row for row in data["rows"] if row["method"] == "protonet")
    means = [data["runs"][i]["accuracy"] for i in (0, 2)]
    assert (row["over"], row["kind"]) == ("2 seeds", "Student's t")
    assert row["high"] - row["mean"] == pytest.approx(mean_ci95(means)[1])
    assert data["level"] == "episodes"  # matching has one seed, which says nothing of others
    assert any("not known of matching" in note for note in held["notes"])


def test_what_is_not_comparable_is_named_and_not_ranked(compared):
    own = {"matching": ("task.shot=2",), "maml": ("eval.bn=batch",)}
    out, held, _ = compared("protonet0", "protonet1", "matching", "maml", own=own)
    rows = {row["method"]: row for row in held["data"][0]["rows"]}
    assert rows["protonet"]["best"]
    assert rows["matching"]["episodes"] is None
    assert rows["matching"]["remarks"] == ["shot 2 (the others: 1)"]
    assert not rows["maml"]["ranked"]
    assert rows["maml"]["episodes"] is not None  # the same episodes, under other conditions
    assert rows["maml"]["episodes_holm"] is None
    assert rows["maml"]["remarks"][0].startswith("transductive")
    assert "not ranked" in (out / "compare.md").read_text(encoding="utf-8")
    assert [row["matching"] for row in episodes(out)] == [""] * 12


def test_other_data_and_stamps_are_named(compared):
    own = {
        "matching": ("data.seed=5", "eval.allow_overlap=true"),
        "maml": ("eval.split=train", "eval.allow_overlap=true"),
    }
    _, held, _ = compared("protonet0", "protonet1", "matching", "maml", own=own)
    rows = {row["method"]: row for row in held["data"][0]["rows"]}
    assert rows["matching"]["remarks"] == [
        "other classes or images: another version of the data",
        "trained on classes of the test (overlap)",
    ]
    assert "split train (the others: test)" in rows["maml"]["remarks"]
    assert not rows["matching"]["paired"]
    assert not rows["maml"]["paired"]


@pytest.mark.slow
def test_several_data_sets_are_ranked_over(small, folders, tmp_path):
    names = ("protonet0", "matching", "maml")
    by_data = {
        name: [(folders[run], _config(small, run, *words)) for run in names]
        for name, words in {"tiny": (), "other": ("data.seed=7", "eval.allow_overlap=true")}.items()
    }
    compare.run(by_data, tmp_path / "out")
    held = json.loads((tmp_path / "out/compare.json").read_text(encoding="utf-8"))
    assert [data["name"] for data in held["data"]] == ["tiny", "other"]
    ranks = held["ranks"]
    assert sum(ranks["average"]) == pytest.approx(6)
    assert ranks["critical"] == pytest.approx(2.3437 * np.sqrt(3 * 4 / (6 * 2)), abs=1e-3)
    assert any("2 data sets are few" in note for note in held["notes"])
    assert "critical difference" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_settings_of_the_comparison_are_checked(small, folders, tmp_path):
    cfg = _config(small, "protonet0")
    cfg.compare.alpha = 1.5
    with pytest.raises(UserError, match=r"compare\.alpha=1\.5: expected a level above 0 and below 1"):
        compare.run({"": [(folders["protonet0"], cfg)]}, tmp_path / "out")
