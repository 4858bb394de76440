"""Child processes, measured from outside: wall and CPU seconds, peak resident size.

On a shared machine wall clock tells how busy the others were. What can be compared is core time:
what a piece used itself, plus what it left idle. With the machine to itself, wall clock is just
that divided by the cores; so rates are given as `cores / core seconds per image`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What a child took, start to exit. `said` is the JSON object it printed last, or {}."""

    wall: float
    cpu: float
    peak_mb: float  # of the largest process
    all_mb: float  # of all processes at once, what they share once; where it was asked for
    idle: float  # share of all cores that nobody used meanwhile
    others: float  # share of all cores that other processes used
    said: dict


def run(argv: list, env: dict | None = None, *, watch: bool = False) -> Measured:
    """Runs a child from the repository root; raises RuntimeError with its words if it fails.

    `watch` asks twice a second for the memory of all of its processes, which takes some of a core.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before, start = machine_seconds(), time.monotonic()
        child = subprocess.Popen(
            [str(word) for word in argv],
            cwd=ROOT,
            stdout=out,
            stderr=err,
            env={**_environment(), **(env or {})},
        )
        ended = threading.Event()
        if not watch:
            ended.set()
        largest = concurrent.futures.ThreadPoolExecutor(1).submit(_peak_of_all, child.pid, ended)
        _, status, usage = os.wait4(child.pid, 0)
        ended.set()
        wall = time.monotonic() - start
        idle, everything = (after - b for after, b in zip(machine_seconds(), before, strict=True))
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
        if child.returncode:
            err.seek(0)
            tail = err.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{argv[1:4]} ended with {child.returncode}: {text[-500:]}{tail}")
    cpu = usage.ru_utime + usage.ru_stime
    others = max(0.0, everything - idle - cpu) / everything
    return Measured(
        wall=wall,
        cpu=cpu,
        peak_mb=usage.ru_maxrss / 1024,
        all_mb=largest.result(),
        idle=idle / everything,
        others=others,
        said=_last_json(text),
    )


def _peak_of_all(pid: int, ended: threading.Event) -> float:
    """The largest proportional set size, MB, that a process and its children had at once."""
    import psutil  # not in the pieces, whose memory is measured

    largest = 0
    while not ended.wait(0.5):
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            size = 0
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    size += process.memory_full_info().pss
            largest = max(largest, size)
    return largest / 2**20


def piece(name: str, *arguments, env: dict | None = None) -> dict:
    """A function of `pieces.py` in a process of its own; its answer."""
    script = pathlib.Path(__file__).with_name("pieces.py")
    return run([sys.executable, script, name, *arguments], env).said


def job(folder, output, model, *flags, env: dict | None = None, watch: bool = False) -> dict:
    """`imagecensus classify` as a user runs it, with the totals it leaves.

    Returns: images, wall, cpu (start to exit), peak_mb, steady (seconds after the model was
    loaded), stages_cpu and stages_wall.
    """
    code = "from imagecensus.jobs.cli import command; command()"
    command = [sys.executable, "-c", code, "classify", folder, "--output", output]
    measured = run([*command, "--model", model, *flags], env, watch=watch)
    with open(os.path.join(output, "run_report.json"), encoding="utf-8") as file:
        report = json.load(file)
    rates = report["rates"]
    if not report["totals"]["balanced"]:
        raise RuntimeError(f"{output}: the totals do not balance: {report['totals']}")
    return {
        "images": rates["images"],
        "wall": measured.wall,
        "cpu": measured.cpu,
        "peak_mb": measured.peak_mb,
        "all_mb": measured.all_mb,
        "idle": measured.idle,
        "others": measured.others,
        "steady": rates["steady_seconds"],
        "stages_cpu": rates["cpu_seconds_by_stage"],
        "stages_wall": rates["wall_seconds_by_stage"],
    }


def _environment() -> dict:
    """As installed packages run: with compiled bytecode, whatever this shell says."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(ROOT)
    environment["PYTHONPYCACHEPREFIX"] = os.path.join(tempfile.gettempdir(), "imagecensus-bench")
    return environment


def machine_seconds() -> tuple[float, float]:
    """Core seconds of the machine since boot: (idle, all)."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    per_second = os.sysconf("SC_CLK_TCK")
    return (ticks[3] + ticks[4]) / per_second, sum(ticks) / per_second


def _last_json(text: str) -> dict:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {}
