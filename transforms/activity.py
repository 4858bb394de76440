"""What each thread is busy with, so that slow images, stuck runs and hangs are told.

One thread looks once a second. Ages are counted in its looks, not by the clock: a process that was
stopped, or a machine that slept, has no hangs to report when it wakes up.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

LOGGER = logging.getLogger("imagecensus")
SLOW_SECONDS = 1.0
STUCK_SECONDS = 60
HUNG_EXIT_CODE = 75  # a decoder hangs: the journal names the image, a rerun decodes it apart
_SLOW_LOGGED = 20  # per process: a slow disk must not fill another one with complaints
_SLOW_KEPT = 1000  # waiting to be taken

_busy: dict[int, tuple[str, str, float]] = {}
_slow: list[dict] = []  # not taken yet
_slow_count = 0
_slow_lock = threading.Lock()
_watch: threading.Thread | None = None
_deadline = 0.0
_decoders = 0


class doing:  # noqa: N801 - reads as a verb: `with doing("decode", uri):`
    """Marks this thread as busy with a stage of one subject (a uri, a part) inside the block."""

    __slots__ = ("_mark", "_outer")

    def __init__(self, stage: str, subject: str):
        self._mark = (stage, subject, time.monotonic())

    def __enter__(self):
        me = threading.get_ident()
        self._outer = _busy.get(me)
        _busy[me] = self._mark

    def __exit__(self, *_):
        stage, subject, start = self._mark
        seconds = time.monotonic() - start
        if seconds > SLOW_SECONDS and stage in ("read", "decode"):
            _note_slow(stage, subject, seconds)
        if self._outer is None:
            del _busy[threading.get_ident()]
        else:
            _busy[threading.get_ident()] = self._outer


def _note_slow(stage: str, subject: str, seconds: float) -> None:
    """Logs a slow image, once, and keeps it for `take_slow`."""
    global _slow_count
    fields = {"uri": subject, "stage": stage, "seconds": round(seconds, 2)}
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
        LOGGER.warning("further slow images are told in run_report.json only")


def take_slow() -> list[dict]:
    """The slow images since the last call, as `uri`, `stage`, `seconds`: once each."""
    global _slow
    if not _slow:  # nearly always
        return []
    with _slow_lock:
        taken, _slow = _slow, []
    return taken


def watch(decode_seconds: float) -> None:
    """Starts the thread that looks, once per process.

    An image in the decoder for longer than `decode_seconds` ends the process, with its name in
    the journal (a thread cannot be ended alone); anything that takes over `STUCK_SECONDS` is told
    once a minute.
    """
    global _watch, _deadline
    _deadline = decode_seconds
    if _watch is None or not _watch.is_alive():
        _watch = threading.Thread(target=_look, name="watch", daemon=True)
        _watch.start()


def _look() -> None:
    ages: dict[int, tuple[tuple, int]] = {}
    while True:
        time.sleep(1)
        before, ages = ages, {}
        for thread, mark in list(_busy.items()):
            known, age = before.get(thread, (None, 0))
            age = age + 1 if known is mark else 0
            ages[thread] = (mark, age)
            if age and age % STUCK_SECONDS == 0:
                log_waiting(mark[0], mark[1], age)
            if mark[0] == "decode" and age > _deadline:
                LOGGER.error(
                    "%s: in the decoder for over %g s; this process ends, and a rerun decodes"
                    " the image in a process of its own",
                    mark[1],
                    _deadline,
                )
                os._exit(HUNG_EXIT_CODE)
        if _decoders:
            _set_alarm(2 * _deadline + 10)


def log_waiting(stage: str, subject: str, seconds: float) -> None:
    """Logs that one thing takes long."""
    fields = {"stage": stage, "subject": subject, "seconds": int(seconds)}
    LOGGER.warning("waiting for %d s: %s of %s", seconds, stage, subject, extra={"fields": fields})


def decoders_begin() -> None:
    """Decoders run from now on.

    One that hangs while it holds the interpreter's lock also holds up the thread that looks. So
    the kernel is asked for SIGALRM, whose default is death, and asked anew at each look.
    """
    global _decoders
    _decoders += 1
    _set_alarm(2 * _deadline + 10)


def decoders_end() -> None:
    """As often as `decoders_begin`."""
    global _decoders
    _decoders -= 1
    if not _decoders:
        _set_alarm(0)


def _set_alarm(seconds: float) -> None:
    if signal.getsignal(signal.SIGALRM) == signal.SIG_DFL:  # else somebody else's alarm clock
        signal.setitimer(signal.ITIMER_REAL, seconds)
