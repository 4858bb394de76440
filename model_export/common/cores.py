"""How many cores this process may use: not always those of the machine."""

from __future__ import annotations

import math
import os
import pathlib

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN = pathlib.Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores by affinity (`taskset`) and by the quota of a container, rounded up; at least 1.

    A pod of 2 cores on a machine of 64 sees 64: as many threads would be stopped again and again.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota() -> float:
    """Cores that control groups allow, the least of this group and those above; inf: no limit."""
    try:
        groups = [line.split(":", 2) for line in _OWN.read_text().splitlines()]
    except OSError:
        return math.inf
    found = [math.inf]
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / "cpu" if controllers else _CGROUPS
        # In a container the path may be that of the machine: then the root is the container's own.
        group = root / path.lstrip("/")
        found += [_limit(at) for at in (group, *group.parents) if at.is_relative_to(root)]
    return min(found)


def _limit(group: pathlib.Path) -> float:
    try:
        if (group / "cpu.max").exists():  # version 2
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file
        return math.inf
