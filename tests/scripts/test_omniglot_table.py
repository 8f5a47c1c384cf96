"""The command that collects docs/results.md's Omniglot table."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = "metalab train experiment=omniglot_maml data.root='/a b' train.minutes=2 optim.lr=0.1 train.steps=60 seed=1"
RESUMED = "metalab train --config-dir mine resume=outputs/x train.steps=70"
MADE = {"steps": 70, "seconds": 120.0, "command": COMMAND, "resumes": [{"command": RESUMED}]}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("omniglot_table", ROOT / "scripts" / "omniglot_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_experiment_is_left_out(script):
    there = {path.stem.removeprefix("omniglot_") for path in (ROOT / "conf" / "experiment").glob("omniglot_*.yaml")}
    assert {row["experiment"] for row in script.rows()} == there


def test_a_row_has_what_was_measured_and_what_was_published(script, tmp_path):
    (tmp_path / "maml").mkdir()
    (tmp_path / "maml" / "run.json").write_text(json.dumps(MADE))
    shared = {"way": 5, "shot": 1, "bn": "batch", "transductive": True, "step": 60}
    for index, (query, accuracy) in enumerate(((1, 0.9), (15, 0.8))):
        (tmp_path / f"maml_eval{index}").mkdir()
        found = {**shared, "query": query, "accuracy": accuracy, "ci95": 0.01}
        (tmp_path / f"maml_eval{index}" / "eval.json").write_text(json.dumps(found))
    document = tmp_path / "results.md"
    kept = "| BOIL (Oh et al. 2021) | 5-way 1-shot | ... | **90.82 ± 0.56** |"
    document.write_text(f"before\n{script.START}\nold\n{kept}\n{script.END}\nafter\n")
    script.main(["--collect", "--out", str(tmp_path), "--table", str(document)])
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert kept in lines  # its run is not here
    with_one = next(line for line in lines if line.startswith("| MAML (Finn"))
    assert "| maml | 5-way 1-shot | batch, transductive | 1 | **90.00 ± 1.00** | 98.7 ± 0.4 (" in with_one
    assert "| -8.7 | 97.2, not met | 60 of 70 | 2 min | optim.lr=0.1 train.steps=70 seed=1 task.query=1 |" in with_one
    assert "| 15 | **80.00 ± 1.00** | none |  |  | 60 of 70 | 2 min | optim.lr=0.1 train.steps=70 seed=1 |" in next(
        line for line in lines if "15 queries" in line
    )
    assert sum("not run by this command yet" in line for line in lines) == len(script.rows()) - 3


def test_the_bar_is_the_published_number_less_a_point_and_a_half_or_ninety(script):
    assert script.judged({"published": "95.39 ± 0.09"}, 93.89) == "93.89, met"
    assert script.judged({"published": "95.39 ± 0.09"}, 93.88) == "93.89, not met"
    assert script.judged({"published": None}, 90.0) == "90, met"
    assert script.judged({"published": None, "bar": None}, 10.0) == ""


def test_what_cannot_be_done_is_said_at_once(script, tmp_path):
    with pytest.raises(SystemExit, match="no experiment=omniglot_nothing; there are: anil, "):
        script.main(["nothing"])
    (tmp_path / "empty.md").touch()
    with pytest.raises(SystemExit, match="has no line <!-- begin"):
        script.main(["--collect", "--table", str(tmp_path / "empty.md")])
