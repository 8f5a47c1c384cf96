"""What a command is started in: its streams, their encoding, a home, a current folder, the machine's limits."""

import errno
import io
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metalab.cli import streams
from metalab.core.errors import UserError
from metalab.data.storage import store
from metalab.tracking import provenance
from metalab.tracking.progress import screen
from metalab.training import train
from tests.cli.bench import METALAB, run

FULL = Path("/dev/full")


def shell(*words: str, ends: str) -> subprocess.CompletedProcess[str]:
    """Run metalab with words in sh, its streams redirected as `ends` says."""
    line = shlex.join([*METALAB, *words])
    return subprocess.run(["sh", "-c", f"{line} {ends}"], capture_output=True, text=True, timeout=100)


def test_a_deleted_current_folder_is_one_message(bench, tmp_path):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (("train",), ("eval", "run=latest"), ("data", "list")):
        code, _, err = bench(*words)
        assert (code, err) == (1, "metalab: the current folder has been deleted: change to one that is there, as cd ~")
    assert bench("--version")[0] == 0


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")
def test_an_output_on_a_full_disk_is_one_message():
    for word in ("--help", "--version"):
        done = shell(word, ends="> /dev/full")
        assert (done.returncode, done.stderr) == (
            1,
            "metalab: the output cannot be written (No space left on device)\n",
        )


def test_closed_streams_are_no_error():
    for word, ends, code in (("--help", ">&-", 0), ("--help", "2>&-", 0), ("nonsense", ">&- 2>&-", 2)):
        done = shell(word, ends=ends)
        assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_stream_escapes_what_its_encoding_lacks(monkeypatch, encoding):
    """eval's table and data check ended in UnicodeEncodeError."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    streams.tolerate_encodings()
    print("83.87 ± 0.70 % ✓ \udcff")
    sys.stdout.flush()
    shown = {"ascii": b"83.87 \\xb1 0.70 % \\u2713 \\udcff\n", "cp1252": b"83.87 \xb1 0.70 % \\u2713 \\udcff\n"}
    assert raw.getvalue().replace(b"\r", b"") == shown[encoding]


def test_a_log_file_is_utf_8_wherever_it_is_written(bench, tmp_path, monkeypatch):
    """A training in an ascii terminal dropped its validation lines from the log file, too."""
    opened = logging.FileHandler.__init__

    def ascii(self, filename, mode="a", encoding=None, delay=False, errors=None):
        opened(self, filename, mode, "ascii", delay, errors)

    monkeypatch.setattr(logging.FileHandler, "__init__", ascii)
    bench.fail = lambda cfg: logging.getLogger("metalab").info("val 81.3 ± 1.2 % plä \udcff")
    assert bench("train", f"hydra.run.dir={tmp_path / 'run'}")[0] == 0
    assert (tmp_path / "run" / "train.log").read_text("utf-8") == "val 81.3 ± 1.2 % plä \\udcff\n"


def test_colours_that_are_forced_into_a_file_bring_no_bar_that_moves(monkeypatch, tmp_path):
    """FORCE_COLOR=1 wrote cursor codes into a log four times a second."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "log").open("w") as file:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, file)
            console = screen(file)
            assert console.is_terminal  # colours
            assert not console.is_interactive


def test_no_home_is_one_message_that_names_both_ways_out(bench, monkeypatch):
    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("METALAB_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr(Path, "home", homeless)
    code, _, err = bench("data", "list")
    assert code == 1
    assert err == (
        "metalab: There is no home folder, where prepared data would be kept. Set METALAB_CACHE=/path/to/a/folder, or "
        "type data.cache=/path/to/a/folder."
    )
    assert provenance.command(["metalab", "train"]) == "metalab train"


@pytest.mark.parametrize("place", ["/.cache/metalab/glyphs", "/.cache", "/.cache/metalab/glyphs/train"])
def test_a_home_that_may_not_be_written_is_one_message(place):
    """HOME=/ gave "[Errno 13]": the error named a folder above the cache."""
    with pytest.raises(UserError) as error, store.writing(Path("/.cache/metalab")):
        raise PermissionError(errno.EACCES, "Permission denied", place)
    assert str(error.value) == (
        "/.cache/metalab cannot be written to (Permission denied); the prepared data needs a folder with room that you "
        "may write to. Type data.cache=/path/to/a/folder, or set METALAB_CACHE."
    )
    with pytest.raises(PermissionError), store.writing(Path("/.cache/metalab")):
        raise PermissionError(errno.EACCES, "Permission denied", "/home/images/1.png")  # of the source


def test_prepare_into_a_folder_that_cannot_be_made_is_one_message(command_line, tmp_path):
    (tmp_path / "file").touch()
    code, said = command_line("data", "prepare", "glyphs", f"data.cache={tmp_path}/file/cache", "data.images=2")
    assert code == 1
    assert f"metalab: {tmp_path}/file/cache" in said
    assert "Type data.cache=/path/to/a/folder" in said


@pytest.mark.parametrize("seed", [2**64, 10**40])
def test_a_seed_that_torch_does_not_take_is_one_message(small, tmp_path, seed):
    with pytest.raises(UserError, match=rf"^seed={seed}: expected a whole number, 0 or more and below 2\^64$"):
        train.run(small(f"seed={seed}"), tmp_path)
    torch.manual_seed(2**64 - 1)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["a=b", "a(1)", "it's", "plä", "é (1)='x'"])
def test_the_folder_of_a_run_or_a_sweep_is_taken_as_typed(bench, tmp_path, folder):
    assert bench("train", f"hydra.run.dir={folder}") == (0, "", "")
    assert bench.trained[-1][1] == tmp_path / folder
    assert bench("train", "-m", f"hydra.sweep.dir={folder}/s", "seed=1")[0] == 0
    assert bench.trained[-1][1] == tmp_path / folder / "s" / "0"


def test_a_log_file_that_cannot_be_opened_is_one_message(bench, tmp_path):
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    code, _, err = bench("train", "hydra.run.dir=run")
    assert code == 1
    assert err == (
        f"metalab: {tmp_path}/run/train.log cannot be written (Is a directory): give a folder that you may write to, "
        "as hydra.run.dir=/path/to/a/folder"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "metalab: the memory is too small (MemoryError): try fewer episodes at once (train.meta_batch"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 TB.\nmore"),
            "metalab: the memory is too small ([enforce fail] DefaultCPUAllocator: can't allocate memory: you tried",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "metalab: [Errno 28] No space left on device: '/x'"),
    ],
)
def test_what_the_machine_lacks_is_one_message(bench, error, said):
    bench.fail = lambda cfg: error
    code, _, err = bench("train")
    assert (code, err.startswith(said)) == (1, True)


def test_a_job_of_a_sweep_that_lacks_memory_is_told_like_any_mistake(bench):
    bench.fail = lambda cfg: MemoryError()
    code, out, err = bench("train", "-m", "seed=0")
    assert code == 1
    assert "Traceback" not in out + err
    assert "the memory is too small" in err


def test_the_commands_message_goes_to_any_encoding():
    done = run("train", "algo=plä", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 1
    assert "algo=pl\\xe4" in done.stderr
    assert "Traceback" not in done.stderr
