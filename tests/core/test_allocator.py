"""Freed memory is kept: after some tensors of a size, the next ones cost no new pages."""

import platform
import subprocess
import sys

import pytest

from metalab.core import allocator

ASK = """
import resource, torch
from metalab.core.allocator import keep_freed_memory
{keep}
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(16, 2**20)  # 64 MB, 16,384 pages of 4 kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(pages())
"""


def pages(keep: str) -> int:
    done = subprocess.run([sys.executable, "-c", ASK.format(keep=keep)], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_tensors_of_one_size_take_no_new_pages():
    kept, given_back = pages("assert keep_freed_memory()"), pages("")
    assert kept < given_back / 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    assert not allocator.keep_freed_memory()


def test_a_gpus_memory_is_none_of_its_business(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    assert not allocator.keep_freed_memory("cuda")
