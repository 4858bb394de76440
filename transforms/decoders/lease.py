"""The decoder processes of this process, shared by all that need some at the same time."""

from __future__ import annotations

import collections
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
_returned: collections.deque[_Lease] = collections.deque()  # and not yet counted
_lock = threading.Lock()


@contextlib.contextmanager
def lease(limits: Limits | None = None, processes: int = 0) -> Iterator[Pool]:
    """Decoder processes within the block; they end with the last block that uses them.

    Args:
      limits: of one image, unless a request has others. None: whatever decoders there are, those
        opened last; where there are none, new ones with the usual limits.
      processes: 0: one per core.
    """
    one = _take(limits, processes)
    try:
        yield one.pool
    finally:
        _returned.append(one)
        _count_returned()


def _take(limits: Limits | None, processes: int) -> _Lease:
    with _lock:
        fitting = [one for one in _open if limits is None or one.asked == (limits, processes)]
        if fitting:
            one = fitting[-1]
        else:
            asked = (limits or Limits(), processes)
            one = _Lease(pool=Pool(asked[0], processes), asked=asked)
            _open.append(one)
        one.users += 1
    _count_returned()
    return one


def _count_returned() -> None:
    """Ends the decoders of which all users have gone.

    A block within a generator that nobody finishes ends wherever Python collects its garbage: also
    within `_take`, in the thread that holds the lock. So nothing here waits for the lock: whoever
    holds it comes here afterwards.
    """
    while _returned and _lock.acquire(blocking=False):
        over = []
        try:
            while _returned:
                one = _returned.popleft()
                one.users -= 1
                if not one.users:
                    _open.remove(one)
                    over.append(one)
        finally:
            _lock.release()
        for one in over:
            one.pool.close()
