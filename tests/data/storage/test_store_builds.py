"""Building a store: interrupted, killed, by two at once, on a full disk."""

import subprocess
import sys

import numpy as np
import pytest

from metalab.core.errors import UserError
from metalab.data.storage.store import open_or_build
from metalab.data.storage.writer import Record
from tests.data.toy import RECIPE, never, records


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def broken():
        yield from records(classes=2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_build(tmp_path / "toy", RECIPE, broken)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert len(open_or_build(tmp_path / "toy", RECIPE, records).split("train").files) == 8


def test_an_interrupted_rebuild_leaves_the_old_store(tmp_path):
    def broken():
        yield from records(classes=2)
        raise KeyboardInterrupt

    open_or_build(tmp_path / "toy", RECIPE, records)
    with pytest.raises(KeyboardInterrupt):
        open_or_build(tmp_path / "toy", {**RECIPE, "size": 6}, broken)
    open_or_build(tmp_path / "toy", RECIPE, never)


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    (tmp_path / "toy.partial").mkdir()
    (tmp_path / "toy.partial" / "train").write_bytes(b"half")
    open_or_build(tmp_path / "toy", RECIPE, records)
    assert not (tmp_path / "toy.partial").exists()


def test_records_that_do_not_fit_are_named(tmp_path):
    def shapes():
        yield Record(np.zeros((1, 5, 5), np.uint8), "a", "a", "train", "a/0.png")
        yield Record(np.zeros((1, 6, 5), np.uint8), "a", "a", "train", "a/1.png")

    def torn():
        for c in "aba":
            yield Record(np.zeros((1, 5, 5), np.uint8), c, c, "train", f"{c}.png")

    with pytest.raises(ValueError, match=r"a/1.png: expected uint8 \[C,H,W\] \[1, 5, 5\], got uint8 \[1, 6, 5\]"):
        open_or_build(tmp_path / "toy", RECIPE, shapes)
    with pytest.raises(ValueError, match=r"the images of class a \(a\) do not come one after another"):
        open_or_build(tmp_path / "toy", RECIPE, torn)
    with pytest.raises(UserError, match=r"No image was found for toy; is data.root the right folder\?"):
        open_or_build(tmp_path / "toy", RECIPE, lambda: iter(()))


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from metalab.data.storage.writer import Record
from metalab.data.storage.store import open_or_build

def records():
    (Path(sys.argv[1]) / f"built-by-{sys.argv[2]}").touch()
    for i in range(20):
        time.sleep(0.05)
        yield Record(np.full((1, 5, 5), i, np.uint8), "a", "a", "train", str(i))

print(open_or_build(Path(sys.argv[1]) / "toy", {"a": 1}, records).split("train").images.sum().item())
"""


@pytest.mark.slow
def test_two_processes_build_once(tmp_path):
    command = [sys.executable, "-c", BUILDER, str(tmp_path)]
    both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert outputs == [f"{25 * sum(range(20))}\n"] * 2
    assert len(list(tmp_path.glob("built-by-*"))) == 1


@pytest.mark.slow
def test_memory_stays_flat_while_building(tmp_path):
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from metalab.data.storage.writer import Record
from metalab.data.storage.store import open_or_build
image = np.random.default_rng(0).integers(0, 256, (3, 256, 256), dtype=np.uint8)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
many = lambda: (Record(image, f"c{i // 50}", "", "train", "") for i in range(600))
before = peak()
store = open_or_build(Path(sys.argv[1]) / "big", {}, many)
print(peak() - before, store.images["train"].nbytes >> 20)
"""
    output = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    grown, size = map(int, output.stdout.split())
    assert size == 112
    assert grown < 30  # MiB


def test_a_disk_that_is_full_is_said_so(tmp_path, monkeypatch):
    def full():
        yield from records(classes=1)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written to \(No space left on device\).*Type data.cache="):
        open_or_build(tmp_path / "toy", RECIPE, full)


def test_trouble_of_the_source_is_not_taken_for_the_disks(tmp_path):
    def lost():
        yield from records(classes=1)
        open("/nowhere/at/all")  # noqa: SIM115

    def undecodable():
        yield from records(classes=1)
        raise OSError("image file is truncated")  # as Pillow has it, without a number

    with pytest.raises(FileNotFoundError):
        open_or_build(tmp_path / "toy", RECIPE, lost)
    with pytest.raises(OSError, match="truncated"):
        open_or_build(tmp_path / "toy", RECIPE, undecodable)
