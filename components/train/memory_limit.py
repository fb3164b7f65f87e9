"""How much memory this process may use: the machine's, or less in a container or a job."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# Where the two versions of control groups, which containers and batch systems limit memory by, are mounted, and the
# file of a group that holds its limit in bytes (docs.kernel.org/admin-guide/cgroup-v2, cgroup-v1/memory).
UNIFIED, MEMORY = Path("sys/fs/cgroup"), Path("sys/fs/cgroup/memory")
UNIFIED_LIMIT, MEMORY_LIMIT = "memory.max", "memory.limit_in_bytes"


def read_memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use; root is where proc and sys lie."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    groups = []
    with suppress(OSError):  # no Linux
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, name = (MEMORY, MEMORY_LIMIT) if controllers else (UNIFIED, UNIFIED_LIMIT)
        # A group is bound by those above it. In a container its own is often mounted as the top one.
        parts = Path(path).parts[1:]
        for depth in range(len(parts) + 1):
            with suppress(OSError, ValueError):  # no such file, or "max"
                limits.append(int(root.joinpath(mount, *parts[:depth], name).read_text(encoding="utf-8")))
    return min(limits)
