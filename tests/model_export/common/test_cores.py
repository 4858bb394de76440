"""How many threads are started: by affinity and by a container's quota."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from imagecensus.model_export.common import cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups in a folder: what `/proc/self/cgroup` says, and files by path."""

    def make(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    return make


@pytest.mark.parametrize(
    "own, files, quota",
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/pods/a\n", {"pods/cpu.max": "400000 100000", "pods/a/cpu.max": "max 100000"}, 4),
        ("0::/../elsewhere\n", {"cpu.max": "200000 100000\n"}, 2),
        ("3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
         {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
         math.inf),
        ("", {}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
    ],
)  # fmt: skip
def test_the_quota_of_a_container(groups, own, files, quota):
    groups(own, files)
    assert cores._quota() == quota
    here = len(os.sched_getaffinity(0))
    assert cores.usable_cores() == (here if quota > here else math.ceil(quota))


def test_affinity_is_kept():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from imagecensus.model_export.common.cores import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
