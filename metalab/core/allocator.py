"""What memory costs on a CPU: pages that go back to the system with each tensor are zeroed anew for the next one."""

import ctypes
import os
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # what glibc's mallopt calls them; trim: -1 is never
SHARE = 64  # of the machine's memory a kept block may be: the holes between such blocks then stay below a sixth of it


def keep_freed_memory(device: str = "cpu") -> bool:
    """Let the C library keep what is freed, for the next meta-step on a CPU asks for the same again; whether it does.

    Of glibc alone; elsewhere, under another allocator, or where it refuses the threshold, nothing changes. The process
    then stays as large as it ever was, and larger than without: docs/performance.md has both numbers.
    """
    if device != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, min(memory // SHARE, 2**31 - 1)) and mallopt(TRIM_THRESHOLD, -1))
