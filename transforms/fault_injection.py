"""Named moments at which a test may hold the job and do harm; free when no test asks.

`IMAGECENSUS_FAULT="POINT:N:FILE"` holds the process when it reaches POINT for the Nth time: it
writes FILE.reached and goes on once FILE.go exists. What happens meanwhile (a kill, a full disk,
a deleted source) is the business of whoever waits for FILE.reached: `tests/chaos.py`.
"""

from __future__ import annotations

import os
import threading
import time

VARIABLE = "IMAGECENSUS_FAULT"

# Where the job can be held, in the order a run meets them; a test goes through all of them.
POINTS = (
    "lock.taken",
    "dataset.json.partial",  # the temporary file is written, not yet synced and renamed
    "dataset.json.synced",
    "dataset.json.renamed",
    "listed",  # once per batch of references
    "plan.partial",
    "plan.synced",
    "plan.renamed",
    "planned",
    "unit.begun",
    "read",  # once per image
    "decode",  # once per image, its place in the journal taken
    "infer",  # once per batch
    "part.partial",
    "part.synced",
    "part.renamed",
    "pipeline.done",
    "run_report.json.partial",
    "run_report.json.synced",
    "run_report.json.renamed",
)

_lock = threading.Lock()
_armed: list | None = None  # [point, arrivals to go, file]


def arm(text: str | None) -> None:
    """Takes the value of `IMAGECENSUS_FAULT`; None disarms."""
    global _armed
    _armed = None
    if text:
        point, count, file = text.split(":", 2)
        if point not in POINTS:
            raise ValueError(f"{VARIABLE}: no point {point!r}")
        _armed = [point, int(count), file]


def reached(point: str) -> None:
    """Says that the job is at `point`."""
    if _armed is not None and _armed[0] == point:
        _hold()


def _hold() -> None:
    with _lock:
        _armed[1] -= 1
        if _armed[1] != 0:
            return
    with open(_armed[2] + ".reached", "w"):
        pass
    while not os.path.exists(_armed[2] + ".go"):
        time.sleep(0.005)


arm(os.environ.get(VARIABLE))
