"""The command behind docs/robustness.md, everything small."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "robustness.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("robustness_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_made_once_and_the_table_says_what_is_there(tmp_path, tiny_dir, command_line, monkeypatch, script):
    made = []

    def metalab(words: list[str], end: float) -> None:
        made.append(words[0])
        code, said = command_line(words[0], "--config-dir", str(tiny_dir), *words[1:])
        assert code == 0, said

    rows = ["protonet/natural", "protonet/aq"]
    data = "data=tiny data.absent='' task.train_query=3"
    words = ["--smoke", "--out", str(tmp_path), "--steps", "2", "--episodes", "2", "--only", *rows, "--data", data]
    monkeypatch.setattr(script, "metalab", metalab)
    monkeypatch.setattr(script, "CURVE", (0, 51))

    def run() -> None:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        script.main()

    (tmp_path / "robustness.md").write_text("Words of a person.\n")
    run()
    assert made == ["train", "eval"] * 2
    run()
    assert len(made) == 4  # nothing is left to do
    table = (tmp_path / "robustness.md").read_text()
    assert table.startswith(f"Words of a person.\n{script.MARK}\n")
    assert table.count(script.MARK) == 1
    assert re.findall(r"\| protonet \| (\w+) \| \d \| support \|", table) == ["natural", "aq"]
    assert table.count(f"train.init={tmp_path}/protonet/natural") == 1  # adversarial training goes on from natural
    assert "Not run: protonet/l2" in table
    assert (tmp_path / "robustness_protonet.png").stat().st_size > 5000
    record = json.loads((tmp_path / "protonet/aq/eval/eval.json").read_text())
    assert [a["eps"] for a in record["attacks"]] == list(script.CURVE)


def test_when_the_minutes_are_over_nothing_is_begun(tmp_path, monkeypatch, script, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path), "--minutes", "0"])
    script.main()
    assert "the minutes are over: the same command goes on with protonet/natural" in capsys.readouterr().out
    assert "Not run: protonet/natural" in (tmp_path / "robustness.md").read_text()


def test_the_three_aims_are_judged(script):
    def row(clean: float, attacked: float) -> tuple[dict, dict]:
        return {"accuracy": clean}, {51: {"accuracy": attacked}}

    [said] = script.aims({"protonet/natural": row(0.9, 0.2), "protonet/aq": row(0.86, 0.6)})
    assert "natural 20.0 % (at most 30 %); AQ +40.0 points (at least 30)" in said
    assert "AQ's clean accuracy -4.0 points (within 5 below natural)" in said
    [said] = script.aims({"protonet/natural": row(0.9, 0.4), "protonet/aq": row(0.8, 0.6)})
    assert "above 30 %); AQ +20.0 points (less than 30); AQ's clean accuracy -10.0 points (more than 5" in said
