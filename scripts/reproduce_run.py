"""Train and evaluate one row of reproduce.py in this process: python scripts/reproduce_run.py SPEC.json.

The start-up is paid once. A training that is signalled, or whose time is over, saves and gives way to the evaluations.
"""

import json
import os
import signal
import sys
import time
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

START = 20.0  # seconds that a training takes before its first step and behind its last on one H100, at most
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, 130)  # exit codes of a training that has saved


class Clock:
    """Until when there is time, and what is under way; signals end a training, and shorten the time that is left."""

    def __init__(self, until: float | None, grace: float) -> None:
        self.until, self.grace = inf if until is None else until, grace
        self.training, self.over = False, False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGALRM, self._alarm)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()

    def hurry(self) -> None:
        """Leave only the seconds of grace."""
        self.until = min(self.until, time.time() + self.grace)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.training:  # before or behind the loop, which has handlers of its own
            raise SystemExit(128 + number)
        self.hurry()

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if self.training:
            self.over = True
            os.kill(os.getpid(), signal.SIGTERM)  # to whoever handles it now


def metalab(*words: str) -> int:
    """Run metalab with these words in this process, and return its exit code."""
    from metalab import cli

    print("metalab", *words, flush=True)
    sys.argv = ["metalab", *words]
    try:
        cli.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, flush=True)
            return 1
        return end.code or 0
    return 0


def newest(folder: Path, file: str) -> Path:
    """Return a run's folder, or of one with train.generations that of the last one that holds a file."""
    from metalab.tracking.run_folder import generations_in

    return (generations_in(folder, file) or [folder])[-1]


def train(spec: dict[str, Any], clock: Clock) -> int:
    """Train, or go on, so that the evaluations have their time; the exit code."""
    from metalab.tracking import checkpoint

    folder, done, words = Path(spec["folder"]), 0.0, [*spec["train"], f"hydra.run.dir={spec['folder']}"]
    inside = newest(folder, "last.pt")
    if (inside / "last.pt").is_file():
        saved = checkpoint.load(inside / "last.pt")
        settings = saved["config"]["train"]
        last = inside == folder or inside.name == f"generation{settings['generations'] - 1}"
        if last and saved["state"]["step"] >= settings["steps"]:
            return 0
        done, words = saved["state"]["seconds"], [f"resume={folder}", *spec["resume"], "train.minutes=null"]
    metalab("data", "prepare", *spec["data"])  # once for all who begin; what is wrong with it, the training says
    if clock.left < inf:
        left = clock.left - min(sum(each["seconds"] for each in spec["evals"]), 0.5 * clock.left)
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.1))
        left -= min(START * spec["slower"], 0.2 * left)
        words = [word for word in words if not word.startswith("train.minutes=")]
        words.append(f"train.minutes={(done + max(left, 1)) / 60:.4f}")
    code = _training(clock, *words)
    if code in STOPPED and not clock.over:
        clock.hurry()
    return code


def evaluate_untrained(spec: dict[str, Any], clock: Clock) -> bool:
    """Make the evaluations without a training that are not there yet; whether none failed. What made them is noted."""
    from metalab.core.device import resolve_device
    from metalab.tracking import provenance

    folder, good = Path(spec["folder"]), True
    for each in spec["evals"]:
        if (Path(each["out"]) / "eval.json").is_file():
            continue
        if clock.left < 5:
            print(f"no time is left for the evaluation {' '.join(each['words'])}")
            continue
        began = time.time()
        if metalab("eval", "run=null", *each["words"], f"hydra.run.dir={each['out']}"):
            good = False
            continue
        device = resolve_device(spec["device"] or "auto")
        made, before = provenance.describe(0, device) | {"parameters": None}, provenance.read(folder)
        took = before.get("seconds", 0) + time.time() - began
        provenance.write(folder, **({"resumes": [made]} if before else made), seconds=took, steps=0)
    return good


def validate(spec: dict[str, Any], clock: Clock) -> None:
    """Give a training that was stopped before its first validation one, by a step more."""
    from metalab.tracking import checkpoint

    folder = Path(spec["folder"])
    inside = newest(folder, "last.pt")
    if (inside / "best.pt").is_file() or not (inside / "last.pt").is_file() or clock.left < 5:
        return
    seconds = checkpoint.load(inside / "last.pt")["state"]["seconds"]
    _training(clock, f"resume={folder}", *spec["resume"], f"train.minutes={(seconds + 0.01) / 60:.6f}")


def _training(clock: Clock, *words: str) -> int:
    clock.training = True
    try:
        return metalab("train", *words)
    finally:
        clock.training = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def evaluate(spec: dict[str, Any], clock: Clock) -> bool:
    """Make the evaluations of the best checkpoint that are not there yet; whether none failed."""
    from metalab.tracking import checkpoint

    best = newest(Path(spec["folder"]), "best.pt") / "best.pt"
    if not best.is_file():
        print("the training ended before its first validation: there is nothing to evaluate")
        return True
    step, good = checkpoint.load(best)["state"]["step"], True
    for each in spec["evals"]:
        made = Path(each["out"]) / "eval.json"
        old = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else {}
        same = best.parent == Path(spec["folder"]) or best.parent.name in str(old.get("checkpoint"))  # generation
        if old.get("step") == step and same:
            continue
        if clock.left < 5:
            print(f"no time is left for the evaluation {' '.join(each['words'])}")
            continue
        made.unlink(missing_ok=True)  # of an earlier checkpoint
        good &= not metalab("eval", f"run={spec['folder']}", *each["words"], f"hydra.run.dir={each['out']}")
    return good


def main() -> None:
    """Do what SPEC.json says."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    clock = Clock(spec["until"], spec["grace"])
    if spec["train"] is None:
        metalab("data", "prepare", *spec["data"])
        sys.exit(0 if evaluate_untrained(spec, clock) else 1)
    code = train(spec, clock)
    if code not in (0, *STOPPED):
        sys.exit(code)
    validate(spec, clock)
    sys.exit(0 if evaluate(spec, clock) else 1)


if __name__ == "__main__":
    main()
