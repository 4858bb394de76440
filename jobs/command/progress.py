"""Signs of life: a line of progress on a terminal; in a log, a line each half minute."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from imagecensus.jobs.command import logs

LOGGER = logging.getLogger(logs.PROGRESS)
LOG_SECONDS = 30.0


@contextlib.contextmanager
def progress_bar(description: str, total: int | None, done: Callable[[], float]) -> Iterator[None]:
    """Shows `done()` out of `total` images while the block runs.

    At a terminal as a bar; else, and with `--log-json`, as a line in the log every `LOG_SECONDS`.

    Args:
      description: what is going on.
      total: images in all; None where that is not known yet.
      done: called twice a second, or for each line, in a thread of its own.
    """
    follow = _log if logs.is_json() or not sys.stderr.isatty() else _draw
    stop = threading.Event()
    arguments = (stop, description, total, done)
    thread = threading.Thread(target=follow, args=arguments, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _draw(
    stop: threading.Event, description: str, total: int | None, done: Callable[[], float]
) -> None:
    import tqdm

    bar = tqdm.tqdm(total=total, desc=description, unit=" images", dynamic_ncols=True, leave=False)
    while not stop.wait(0.5):
        bar.update(done() - bar.n)
    bar.close()


def _log(
    stop: threading.Event, description: str, total: int | None, done: Callable[[], float]
) -> None:
    began, before = time.monotonic(), 0.0
    while not stop.wait(LOG_SECONDS):
        images, now = int(done()), time.monotonic()
        rate = images / (now - began)
        fields = {"stage": description, "images": images, "images_per_second": round(rate, 1)}
        text = f"{description}: {images:,}"
        if total is not None:
            text += f" of {total:,}"
            fields["total"] = total
        text += f" images, {(images - before) / LOG_SECONDS:,.1f} a second"
        if total is not None and 0 < images < total:
            left = round((total - images) / rate)
            fields["seconds_left"] = left
            text += f", {_duration(left)} left"
        before = images
        LOGGER.info("%s", text, extra={"fields": fields})


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
