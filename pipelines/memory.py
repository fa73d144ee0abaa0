"""How much memory this process can still have, and whether it keeps what it had."""

import ctypes
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
# Of malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes: what the machine has to give, or less where a container's limit (cgroup v2) is lower."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no limit reads "max"
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(statistics.get("inactive_file", 0)))
    return max(0, free)


def keep_freed_memory() -> None:
    """The C library (glibc; others are left as they are) gives nothing that is freed back to the system.

    For a process that computes with large tensors on the CPU again and again: to be given fresh memory for every one of
    them, page by page, takes time.
    """
    with suppress(AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
        set_option(_M_TOP_PAD, 64 * 2**20)
