import os

import pytest

from components.train.memory_limit import read_memory_limit

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
UNLIMITED = "9223372036854771712\n"  # as version 1 says it


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.max": "4096\n"}, 4096),  # a container with a name space of its own
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, PHYSICAL),
        ("0::/\n", {}, PHYSICAL),
        ("0::/job/step\n", {"sys/fs/cgroup/job/step/memory.max": "max", "sys/fs/cgroup/job/memory.max": "8192"}, 8192),
        ("0::/job/step\n", {"sys/fs/cgroup/job/step/memory.max": "99", "sys/fs/cgroup/job/memory.max": "8192"}, 99),
        ("5:cpu,memory:/docker/1\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "4096\n"}, 4096),
        ("5:memory:/job\n0::/\n", {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "77\n"}, 77),
        ("5:memory:/\n0::/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED}, PHYSICAL),
        ("5:cpu:/job\n", {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "77\n"}, PHYSICAL),
        (None, {"sys/fs/cgroup/memory.max": "4096\n"}, PHYSICAL),  # no Linux
    ],
)
def test_the_limit_is_the_least_of_the_machine_and_the_groups_that_hold_the_process(tmp_path, groups, files, limit):
    for name, content in {**files, **({"proc/self/cgroup": groups} if groups else {})}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert read_memory_limit(tmp_path) == limit


def test_this_process_may_use_something():
    assert 0 < read_memory_limit() <= PHYSICAL
