"""Named moments at which a test may hold the job and do harm; free when no test asks.

`IMAGECENSUS_FAULT="POINT:N:FILE"` holds the process when it reaches POINT for the Nth time: it
writes FILE.reached and goes on once FILE.go exists. What happens meanwhile (a kill, a full disk,
a deleted source) is decided by the test that waits for FILE.reached: `tests/chaos.py`.

`POINT:*:FILE` holds nothing, and appends a line to FILE each time. Several are separated by `;`.
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
    "decode",  # once per image, before it is sent to a decoder process
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
        self.point = point
        self._only_counts = count == "*"
        self._arrivals = 0 if self._only_counts else int(count)
        self._lock = threading.Lock()

    def arrive(self) -> None:
        if self._only_counts:
            with open(self._file, "a", encoding="ascii") as file:  # one write: lines stay whole
                file.write(f"{os.getpid()}\n")
            return
        with self._lock:
            self._arrivals -= 1
            if self._arrivals != 0:
                return
        with open(self._file + ".reached", "w"):
            pass
        while not os.path.exists(self._file + ".go"):
            time.sleep(0.005)


_armed: list[_Hold] = []


def arm(text: str | None) -> None:
    """Takes the value of `IMAGECENSUS_FAULT`; None disarms."""
    _armed[:] = [_Hold(one) for one in text.split(";")] if text else []


def reached(point: str) -> None:
    """Says that the job is at `point`."""
    for hold in _armed:
        if hold.point == point:
            hold.arrive()


arm(os.environ.get(VARIABLE))
