"""One line of progress on a terminal, with rate and time left; silence when piped."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(description: str, total: int | None, done: Callable[[], float]) -> Iterator[None]:
    """Shows `done()` out of `total` images while the block runs.

    Args:
      description: what is going on.
      total: images in all; None where that is not known yet.
      done: called twice a second in a thread of its own.
    """
    if not sys.stderr.isatty():
        yield
        return
    import tqdm

    stop = threading.Event()
    bar = tqdm.tqdm(total=total, desc=description, unit=" images", dynamic_ncols=True, leave=False)

    def follow() -> None:
        while not stop.wait(0.5):
            bar.update(done() - bar.n)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.close()
