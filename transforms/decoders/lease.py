"""The decoder processes of this process, shared by all that need some at the same time."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from imagecensus.transforms.decoders.pool import Pool
from imagecensus.transforms.image_ref import Limits


@dataclasses.dataclass(kw_only=True)
class _Lease:
    pool: Pool
    asked: tuple[Limits, int]
    users: int = 0


_open: list[_Lease] = []  # the newest is last
_lock = threading.Lock()


@contextlib.contextmanager
def lease(limits: Limits | None = None, processes: int = 0) -> Iterator[Pool]:
    """Decoder processes within the block; they end with the last block that uses them.

    Args:
      limits: of one image, unless a request has others. None: whatever decoders there are, those
        opened last; where there are none, new ones with the usual limits.
      processes: 0: one per core.
    """
    with _lock:
        fitting = [one for one in _open if limits is None or one.asked == (limits, processes)]
        if fitting:
            one = fitting[-1]
        else:
            asked = (limits or Limits(), processes)
            one = _Lease(pool=Pool(asked[0], processes), asked=asked)
            _open.append(one)
        one.users += 1
    try:
        yield one.pool
    finally:
        with _lock:
            one.users -= 1
            over = not one.users
            if over:
                _open.remove(one)
        if over:
            one.pool.close()
