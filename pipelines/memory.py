"""How much memory this process can still have."""

from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes: what the machine has to give, or less where a container's limit (cgroup v2) is lower."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no limit reads "max"
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(statistics.get("inactive_file", 0)))
    return max(0, free)
