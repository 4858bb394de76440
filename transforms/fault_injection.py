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


class _Hold:
    """One moment at which the process is held."""

    def __init__(self, text: str) -> None:
        point, count, self._file = text.split(":", 2)
        if point not in POINTS:
            raise ValueError(f"{VARIABLE}: no point {point!r}")
        self.point, self._arrivals = point, int(count)
        self._lock = threading.Lock()

    def arrive(self) -> None:
        with self._lock:
            self._arrivals -= 1
            if self._arrivals != 0:
                return
        with open(self._file + ".reached", "w"):
            pass
        while not os.path.exists(self._file + ".go"):
            time.sleep(0.005)


_armed: _Hold | None = None


def arm(text: str | None) -> None:
    """Takes the value of `IMAGECENSUS_FAULT`; None disarms."""
    global _armed
    _armed = _Hold(text) if text else None


def reached(point: str) -> None:
    """Says that the job is at `point`."""
    if _armed is not None and _armed.point == point:
        _armed.arrive()


arm(os.environ.get(VARIABLE))
