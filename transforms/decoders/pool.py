"""The processes that decode images and open archives, as one pool.

Each child has a thread here that keeps it busy: it sends requests in groups, always one ahead, and
hands on the answers. What a child does to itself costs the one image that it had begun: the thread
reads from shared memory which one that was, starts another child and sends it the others again. An
image is blamed only where a child died of it that had done nothing before: what came earlier
might have left its memory damaged or full.
"""

from __future__ import annotations

import collections
import json
import os
import threading
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.preprocess import ImageInfo, PreprocessSpec
from imagecensus.transforms.decoders import sandbox
from imagecensus.transforms.decoders.child import AHEAD, Child, Death
from imagecensus.transforms.decoders.requests import Answer, Place, ReaderDied, Request
from imagecensus.transforms.decoders.template import DecodersError, Template
from imagecensus.transforms.image_ref import ImageRef, Limits

_GROUP = 16  # requests of one message, at most: large against its cost
_GROUP_BYTES = 8 << 20
_HELD_BYTES = 64 << 20  # read from archives front to back and not decoded yet
_FUTILE = 3  # children in a row that died before they began anything


class Pool:
    """Decoder processes. Methods may be called from any thread."""

    def __init__(self, limits: Limits | None = None, processes: int = 0) -> None:
        """Args:
        limits: of one image, unless a request has others; their memory is each process's.
        processes: 0: one per core.
        """
        self.limits = limits or Limits()
        self.processes = processes or usable_cores()
        self.large = sandbox.anonymous_file("large")
        self.template = Template()
        self._changed = threading.Condition()
        self._begun = False
        self._early: set[int] = set()  # whose children are to start before there is work
        self._queue: collections.deque[Request] = collections.deque()
        self._pinned = [collections.deque[Request]() for _ in range(self.processes)]
        self._held = 0
        self.closed: Exception | None = None  # why nothing is taken any more
        self.fatal: dict[tuple[str, int], tuple[int, str]] = {}  # from which row on, and why
        self._drivers = [_Driver(self, index) for index in range(self.processes)]

    def start(self) -> None:
        """Starts all processes now; else each starts when there is work for it."""
        with self._changed:
            self._begin()
            self._early.update(range(self.processes))
            self._changed.notify_all()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            try:
                for driver in self._drivers:
                    driver.start()
            except RuntimeError as error:  # no memory for its thread: nobody would answer
                self.break_down(error)
                raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes. What was not answered yet is answered with an error."""
        self.break_down(RuntimeError("the decoder processes were closed"))
        self.template.refuse()
        for driver in self._drivers:
            driver.stop()
        self.template.close()
        if self.large >= 0:
            os.close(self.large)
            self.large = -1

    def decode(
        self, data: bytes, spec: PreprocessSpec, out: NDArray[np.uint8], *,
        limits: Limits | None = None, lenient: bool = False, gps: bool = False,
    ) -> ImageInfo:  # fmt: skip
        """See `decode_image`.

        Raises:
          ImageError: also with `decode_crash` and `decode_timeout`.
          DecodersError: no process can be started.
        """
        config = decode_config(spec, limits or self.limits, lenient=lenient, gps=gps)
        seconds = (limits or self.limits).decode_seconds
        answer = self._ask(call="decode", data=data, out=out, config=config, seconds=seconds)
        assert answer.info
        return answer.info

    def read(self, ref: ImageRef, max_bytes: int) -> bytes:
        """See `read_image`: the bytes of a member of an archive."""
        answer = self._ask(
            call="read", ref=ref, max_bytes=max_bytes, seconds=self.limits.decode_seconds,
            pin=ref.container or ref.uri, place=place_of(ref),
        )  # fmt: skip
        assert answer.data is not None
        return answer.data

    def ask(self, call: str, *arguments: Any, pin: str) -> bytes:
        """The answer of `look_into` to a question about the archive `pin`.

        Raises:
          ReaderDied: the child did.
        """
        answer = self._ask(call=call, arguments=arguments, seconds=0, pin=pin)
        assert answer.data is not None
        return answer.data

    def _ask(self, **fields: Any) -> Answer:
        answered = threading.Event()
        answers: list[Answer] = []

        def done(answer: Answer) -> None:
            answers.append(answer)
            answered.set()

        self.submit([Request(done=done, **fields)])
        answered.wait()
        if answers[0].error:
            raise answers[0].error
        return answers[0]

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests; each one's `done` is called once."""
        with self._changed:
            refused = self.closed
            if not refused:
                self._begin()
                for request in requests:
                    if request.pin:
                        index = zlib.crc32(request.pin.encode()) % self.processes
                        self._pinned[index].append(request)
                    else:
                        self._queue.append(request)
                self._changed.notify_all()
        if refused:
            for request in requests:
                request.done(Answer(error=refused))

    def take(
        self, index: int, again: collections.deque[Request], wait: bool
    ) -> list[Request] | None:
        """For a driver: the next group; empty: there is nothing now; None: the pool is closed."""
        with self._changed:
            while True:
                if self.closed:
                    return None
                group: list[Request] = []
                size = 0
                most = min(_GROUP, 1 + len(self._queue) // (2 * self.processes))
                for queue in (again, self._pinned[index], self._queue):
                    while queue and len(group) < most and size < _GROUP_BYTES:
                        if queue[0].pin and queue is not again and self._held >= _HELD_BYTES:
                            break
                        group.append(queue.popleft())
                        size += len(group[-1].data or b"")
                if group or not wait or index in self._early:
                    self._early.discard(index)
                    return group
                self._changed.wait()

    def hold(self, size: int) -> None:
        """Counts bytes that were read ahead; negative: that were decoded."""
        with self._changed:
            self._held += size
            if size < 0:
                self._changed.notify_all()

    def break_down(self, error: Exception) -> None:
        """Answers all that is queued, and what may come, with an error."""
        with self._changed:
            self.closed = self.closed or error
            left = [*self._queue, *(one for queue in self._pinned for one in queue)]
            self._queue.clear()
            for queue in self._pinned:
                queue.clear()
            self._changed.notify_all()
        for request in left:
            request.done(Answer(error=error))


def decode_config(
    spec: PreprocessSpec, limits: Limits, *,
    lenient: bool = False, gps: bool = False, xxh128: bool = False,
) -> str:  # fmt: skip
    """How images are to be decoded, as requests carry it; made once, used for many.

    Args:
      lenient: a file that ends too early gives what there is of it. To look at only.
      gps: also reads where the image was taken.
      xxh128: also gives the hash of the file.
    """
    fields = {"spec": spec.to_json(), "max_pixels": limits.max_pixels, "lenient": lenient}
    return json.dumps({**fields, "max_side": limits.max_side, "gps": gps, "xxh128": xxh128})


def place_of(ref: ImageRef) -> Place | None:
    """What of an archive has to be read front to back up to this member, and the member's row in
    it; None: nothing.
    """
    if ref.container is None or ref.member is None:
        return None
    kind, *where = json.loads(ref.member)
    return ((ref.container, where[0]), where[1]) if kind == "parquet" else None


class _Driver(threading.Thread):
    """Keeps one child busy, and replaces it where it dies."""

    def __init__(self, pool: Pool, index: int) -> None:
        super().__init__(name=f"decoder-{index}", daemon=True)
        self._pool, self._index = pool, index
        self._child: Child | None = None
        self._again: collections.deque[Request] = collections.deque()
        self._number = self._first = 0  # the last request's, the child's first one's
        self._futile = 0

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._pool.break_down(error)
        finally:
            left = list(self._again)
            if self._child:
                left += [one for _, group in self._child.sent for one in group]
                self._child.close()
            for request in left:
                request.done(Answer(error=self._pool.closed))

    def stop(self) -> None:
        """Ends the child, whatever it does, and waits for this thread. The pool is closed."""
        child = self._child
        if child:
            child.kill()
        if self.is_alive():
            self.join()

    def _work(self) -> None:
        while True:
            busy = self._child is not None and bool(self._child.sent)
            group = self._pool.take(self._index, self._again, wait=not busy)
            if group is None:
                return
            try:
                child = self._living_child()
            except Exception:  # no memory for it: all that was taken is answered at the end
                self._again.extendleft(reversed(group))
                raise
            group = self._without_fatal(group)
            if group:
                self._send(child, group)
            elif child.sent:
                self._receive(child)
            if len(child.sent) == AHEAD:
                self._receive(child)

    def _living_child(self) -> Child:
        if self._child is None:
            memory = self._pool.limits.decode_memory
            self._child = Child(self._pool.template, memory, self._pool.large)
            self._first = self._number + 1
        return self._child

    def _without_fatal(self, group: list[Request]) -> list[Request]:
        """The group without what lies behind something that ended a child."""
        if not self._pool.fatal:
            return group
        kept = []
        for request in group:
            place, row = request.place or (None, 0)
            first, reason = self._pool.fatal.get(place, (0, "")) if place else (0, "")
            if not reason or row < first:
                kept.append(request)
            else:
                self._answer(request, Answer(error=ImageError("read_error", reason)))
        return kept

    def _send(self, child: Child, group: list[Request]) -> None:
        for request in group:
            self._number += 1
            request.number = self._number
        try:
            child.send(group)
        except MemoryError:
            error = ImageError("too_large", "not enough memory to decode")
            for request in group:
                self._answer(request, Answer(error=error))
        except OSError:  # it died just now
            self._bury(child)
        except Exception:  # a request that cannot be sent: all are answered at the end
            self._again.extendleft(reversed(group))
            raise

    def _receive(self, child: Child) -> None:
        """Waits for the answer to the oldest group, or the child's end."""
        try:
            answers = child.receive()
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            child.kill()
            _, group = child.sent.popleft()
            error = ImageError("decode_crash", "the decoder's answer cannot be read")
            answers = [(request, Answer(error=error)) for request in group]
        if answers is None:
            self._bury(child)
            return
        self._futile = 0
        for request, answer in answers:
            self._answer(request, answer)

    def _answer(self, request: Request, answer: Answer) -> None:
        if request.held:
            self._pool.hold(-request.held)
        request.done(answer)

    def _bury(self, child: Child) -> None:
        """After a child's death: one request may be at fault, the others are sent again."""
        death = child.bury()
        child.close()
        self._child = None
        again = death.left
        if self._pool.closed:
            again = [*again, death.fault] if death.fault else again
        elif death.fault is None or death.lost:
            self._futile += 1
            again = [death.fault, *again] if death.fault else again
        elif death.late or death.fault.number == self._first:
            error = _fault(death.fault, death)
            if death.fault.place:
                place, row = death.fault.place
                self._pool.fatal[place] = (row, str(error))
            self._answer(death.fault, Answer(error=error))
        else:  # alone in a new child it shows whether it is at fault
            again = [death.fault, *again]
        self._again.extendleft(reversed(again))
        if self._futile >= _FUTILE and not self._pool.closed:
            raise DecodersError(
                "no decoder process can work here: each one "
                + (death.lost or sandbox.ending(death.code))
            )


def _fault(request: Request, death: Death) -> Exception:
    """What is said of a request over which a child ended."""
    ending = sandbox.ending(death.code)
    within = f"within {request.seconds:g} s (raise it with --decode-seconds)"
    if death.stage == sandbox.LIST:
        return ReaderDied(f"the reader of its archive {ending}")
    if death.stage in (sandbox.OPEN, sandbox.READ):
        late = f"not read from its archive {within}"
        return ImageError(
            "read_error", late if death.late else f"the reader of its archive {ending}"
        )
    if death.late:
        return ImageError("decode_timeout", f"not decoded {within}")
    if death.code in sandbox.OUT_OF_MEMORY:
        return ImageError("too_large", "not enough memory to decode")
    return ImageError("decode_crash", f"the decoder {ending}")
