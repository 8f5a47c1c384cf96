"""What is seen of a run: the bar on a terminal, the lines elsewhere."""

import io
import logging
import re
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from metalab.tracking import progress
from metalab.tracking.run_logger import Log

TRAIN = {"train/loss": 0.412, "train/accuracy": 0.841}
VAL = {"val/accuracy": 0.813, "val/ci95": 0.012, "val/loss": 0.6}


@pytest.fixture
def clock(monkeypatch):
    """Time stands still unless a test moves it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def screen(written):
    """Return the lines that a terminal shows after these control codes."""
    rows, row = [""], 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if token == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif token == "\x1b[2K":
            rows[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", token):
            row -= int(token[2:-1] or 1)
        elif token[0] not in "\r\x1b":
            rows[row] = token if not rows[row] else rows[row] + token
    return [line.rstrip() for line in rows if line.strip()]


def plain(out, start=0, steps=600):
    return Log(out, steps, start, console=Console(file=io.StringIO(), force_terminal=False))


def test_plain_lines_come_by_the_clock_and_with_every_validation(tmp_path, caplog, clock):
    caplog.set_level("INFO", logger="metalab")
    with plain(tmp_path) as log:
        log.log(TRAIN, 10)
        log.log(TRAIN, 20)
        clock[0] += progress.PLAIN_SECONDS
        log.log(TRAIN, 30)
        log.log(TRAIN, 40)
        log.log(VAL, 40)
        log.log(TRAIN, 50)
        assert [message.split("  ")[0] for message in caplog.messages] == ["step 10/600", "step 30/600", "step 40/600"]
    assert caplog.messages[-1].startswith("step 50/600  loss 0.412  acc 84.1 %  val 81.3 ± 1.2 %  best 81.3 %")
    assert re.search(r"  [\d.]+ steps/s  [\d:]+ left$", caplog.messages[-1])
    assert caplog.messages[0] == "step 10/600  loss 0.412  acc 84.1 %"


def test_the_last_step_is_not_shown_twice(tmp_path, caplog, clock):
    caplog.set_level("INFO", logger="metalab")
    with plain(tmp_path, steps=20) as log:
        log.log(TRAIN, 10)
        log.log(TRAIN, 20)
        log.log(VAL, 20)
    assert [message[:10] for message in caplog.messages] == ["step 10/20", "step 20/20"]


def test_the_best_validation_outlives_a_resume(tmp_path, caplog, clock):
    caplog.set_level("INFO", logger="metalab")
    with plain(tmp_path) as log:
        log.log({"val/accuracy": 0.9, "val/ci95": 0.01}, 100)
        log.log({"val/accuracy": 0.8, "val/ci95": 0.01}, 200)
        log.log({"val/accuracy": 0.99, "val/ci95": 0.01}, 300)
    with plain(tmp_path, start=200) as log:
        log.log({"train/loss": 0.5}, 210)
    assert caplog.messages[-1] == "step 210/600  loss 0.500  val 80.0 ± 1.0 %  best 90.0 %"


@pytest.mark.parametrize(
    ("speed", "remaining", "said"),
    [
        (12.34, 300, "12.3 steps/s  0:25 left"),
        (0.05, 500, "0.050 steps/s  2:46:40 left"),
        (2.0, 0, "2.0 steps/s  0:00 left"),
        (None, 300, ""),
    ],
)
def test_pace(speed, remaining, said):
    assert progress._pace(speed, remaining) == said


def test_a_terminal_shows_two_lines_that_stay_below_messages(tmp_path, terminal, capsys):
    handler = logging.StreamHandler(sys.stdout)  # set up before the bar, as Hydra does
    logger = logging.getLogger("metalab")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    before = handler.stream
    try:
        with Log(tmp_path, 600, console=terminal) as log:
            log.log(TRAIN, 100)
            log.say("message [1] :warning:")
            log.log(TRAIN | VAL, 300)
            print("printed")
            logging.getLogger("metalab.loop").info("logged")
        assert handler.stream is before
        log.say("afterwards")
    finally:
        logger.removeHandler(handler)
        logger.setLevel("NOTSET")
    shown = screen(terminal.file.getvalue())
    assert shown[:3] == ["message [1] :warning:", "printed", "logged"]
    assert len(shown) == 5
    assert re.fullmatch(r"step 300/600 ━+[╸╺]? *[\d.]+ steps/s  [\d:]+ left", shown[3])
    assert shown[4] == "loss 0.412  acc 84.1 %  val 81.3 ± 1.2 %  best 81.3 %"
    assert capsys.readouterr().out == "afterwards\n"  # nothing went past the bar while it was there


def test_nothing_is_cut_off_at_80_columns(tmp_path, terminal):
    with Log(tmp_path, 60000, console=terminal) as log:
        log.log({"train/loss": 12.345, "train/accuracy": 1.0, "val/accuracy": 1.0, "val/ci95": 0.123}, 59000)
        log.log({}, 59010)
    shown = screen(terminal.file.getvalue())
    assert len(shown) == 2
    assert "…" not in "".join(shown)
    assert max(map(len, shown)) <= 80


def test_an_error_gives_the_terminal_back(tmp_path, terminal):
    out, err = sys.stdout, sys.stderr
    log = Log(tmp_path, 600, console=terminal)

    def fail():
        with log:
            assert sys.stdout is not out
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert terminal.file.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_an_evaluations_bar_is_a_terminals_alone(monkeypatch, capsys):
    for terminal in (False, True):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(progress.Console, "is_terminal", property(lambda self, terminal=terminal: terminal))
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        results = [SimpleNamespace(correct=[True] * episodes) for episodes in (3, 5)]
        assert list(progress.counted(results, "episodes", 8)) == results  # type: ignore[arg-type]
        assert ("8/8" in capsys.readouterr().err) == terminal
