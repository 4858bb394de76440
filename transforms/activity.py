"""What each thread is busy with, so that slow images and stuck runs are logged.

One thread looks once a second. Ages are counted in its looks, not by the clock: a process that was
stopped, or a machine that slept, has nothing to report when it wakes up.
"""

from __future__ import annotations

import logging
import threading
import time

LOGGER = logging.getLogger("imagecensus")
SLOW_SECONDS = 1.0
STUCK_SECONDS = 60
_SLOW_LOGGED = 20  # per process: a slow disk must not fill another one with complaints
_SLOW_KEPT = 1000  # waiting to be taken

_Mark = tuple[str, str, float]  # stage, subject, when it began

_busy: dict[int, _Mark] = {}
_slow: list[dict[str, str | float]] = []  # not taken yet
_slow_count = 0
_slow_lock = threading.Lock()
_watch: threading.Thread | None = None


class doing:  # noqa: N801 - reads as a verb: `with doing("decode", uri):`
    """Marks this thread as busy with a stage of one subject (a uri, a part) inside the block."""

    __slots__ = ("_mark", "_outer")

    def __init__(self, stage: str, subject: str) -> None:
        self._mark: _Mark = (stage, subject, time.monotonic())

    def __enter__(self) -> None:
        me = threading.get_ident()
        self._outer = _busy.get(me)
        _busy[me] = self._mark

    def __exit__(self, *_: object) -> None:
        stage, subject, start = self._mark
        note(stage, subject, time.monotonic() - start)
        if self._outer is None:
            del _busy[threading.get_ident()]
        else:
            _busy[threading.get_ident()] = self._outer


def note(stage: str, subject: str, seconds: float) -> None:
    """Logs an image that was slow to read or to decode, once, and keeps it for `take_slow`."""
    global _slow_count
    if seconds <= SLOW_SECONDS or stage not in ("read", "decode"):
        return
    fields: dict[str, str | float] = {"uri": subject, "stage": stage, "seconds": round(seconds, 2)}
    with _slow_lock:
        if any(one["uri"] == subject for one in _slow):
            return  # slow to read, and now to decode
        if len(_slow) < _SLOW_KEPT:
            _slow.append(fields)
        _slow_count += 1
        count = _slow_count
    if count <= _SLOW_LOGGED:
        LOGGER.warning("slow %s: %.1f s for %s", stage, seconds, subject, extra={"fields": fields})
    if count == _SLOW_LOGGED:
        LOGGER.warning("further slow images are listed in run_report.json only")


def take_slow() -> list[dict[str, str | float]]:
    """The slow images since the last call, as `uri`, `stage`, `seconds`: once each."""
    global _slow
    if not _slow:  # nearly always
        return []
    with _slow_lock:
        taken, _slow = _slow, []
    return taken


def watch() -> None:
    """Starts the thread that looks, once per process: what takes long is logged once a minute."""
    global _watch
    if _watch is None or not _watch.is_alive():
        _watch = threading.Thread(target=_look, name="watch", daemon=True)
        _watch.start()


def _look() -> None:
    ages: dict[int, tuple[_Mark, int]] = {}
    while True:
        time.sleep(1)
        before, ages = ages, {}
        for thread, mark in list(_busy.items()):
            known, age = before.get(thread, (None, 0))
            age = age + 1 if known is mark else 0
            ages[thread] = (mark, age)
            if age and age % STUCK_SECONDS == 0:
                log_waiting(mark[0], mark[1], age)


def log_waiting(stage: str, subject: str, seconds: float) -> None:
    """Logs that one thing takes long."""
    fields = {"stage": stage, "subject": subject, "seconds": int(seconds)}
    LOGGER.warning("waiting for %d s: %s of %s", seconds, stage, subject, extra={"fields": fields})
