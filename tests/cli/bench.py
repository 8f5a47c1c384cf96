"""The command line with what it calls written down instead of done."""

import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from metalab.cli import app

ROOT = Path(__file__).parents[2]

METALAB = [sys.executable, "-c", "from metalab.cli import main; main()"]


@dataclass
class Bench:
    """The command line in a folder of its own, with train.run and evaluate.run written down instead of done."""

    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    trained: list[tuple[DictConfig, Path]] = field(default_factory=list)
    evaluated: list[tuple[list[tuple[Path, DictConfig]], Path]] = field(default_factory=list)
    fail: Any = None  # raised by train.run where it returns an exception

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self.patch.setattr(sys, "argv", ["metalab", *words])
        self.patch.setattr(logging, "raiseExceptions", True)  # main turns it off, for this test alone
        try:
            app.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        out, err = self.capture.readouterr()
        if isinstance(code, str):
            return 1, out, err + code
        return code or 0, out, err

    def train(self, cfg: DictConfig, out: Path) -> float:
        self.trained.append((cfg, out))
        error = self.fail and self.fail(cfg)
        if error:
            raise error
        OmegaConf.save(cfg, out / "config.yaml", resolve=True)
        for name in ("best.pt", "last.pt"):
            (out / name).touch()
        return 0.5

    def new_run(self, *words: str) -> Path:
        code, _, err = self("train", *words)
        assert (code, err) == (0, "")
        return self.trained[-1][1].relative_to(Path.cwd())


def run(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*METALAB, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, timeout=300)
