"""From units of references to a stream of decoded batches, on all cores.

While one batch is in the model, decoder processes read and decode the next ones. The window of
batches in flight bounds the memory; nothing waits for a whole unit.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import threading
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from imagecensus.model_export.common.redact import redact
from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.preprocess import MAX_PIXELS, MAX_SIDE, PreprocessSpec
from imagecensus.transforms import activity, counters, fault_injection
from imagecensus.transforms.activity import doing
from imagecensus.transforms.archives.reading import as_stored, is_sequential
from imagecensus.transforms.dataset import parts, work_plan
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.pool import how_to_decode, place_of
from imagecensus.transforms.decoders.requests import Answer, Request
from imagecensus.transforms.image_ref import DECODE_MEMORY, DECODE_SECONDS, ImageRef, Limits
from imagecensus.transforms.read_images import MAX_BYTES, read_image
from imagecensus.transforms.records import GPS_FACTS, ImageBatch, Status, Unit
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web.policy import WebPolicy

# Set by Ctrl-C in a run in this very process: units not begun yet are left for the rerun.
STOP = threading.Event()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How images are decoded; the same on every worker.

    Engines cut batches to their own size. The larger a batch, the less often a core waits for its
    last call (measured: docs/performance.md), and the more memory the window takes.
    """

    spec: PreprocessSpec
    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE
    max_bytes: int = MAX_BYTES
    batch_images: int = 128
    window_batches: int = 2  # decoded or being decoded, beyond the one in the model
    threads: int = 0  # decoder processes; 0: one per core
    fetch_threads: int = 64  # readers ahead of the decoders, for stores and the web only
    seconds: float = DECODE_SECONDS  # longest that one image may take
    web: WebPolicy = WebPolicy()  # how web addresses are read
    memory: int = DECODE_MEMORY  # address space of a decoder process
    facts: tuple[str, ...] = ()  # columns of `FACT_TYPES` that are kept

    @property
    def limits(self) -> Limits:
        return Limits(
            max_pixels=self.max_pixels, max_side=self.max_side, max_bytes=self.max_bytes,
            decode_seconds=self.seconds, decode_memory=self.memory,
        )  # fmt: skip


class Pools:
    """What decodes in one process: decoder processes, and threads that read where a network waits.

    Attributes:
      decoders: the processes; other users of this process may share them.
      fetch: the threads.
      request: how images are decoded, as requests say it.
    """

    def __init__(self, how: Decoding) -> None:
        self._stack = contextlib.ExitStack()
        limits = how.limits
        self.decoders = self._stack.enter_context(lease(limits, how.threads))
        self.decoders.start()
        self.request = how_to_decode(
            how.spec, limits, gps=any(name in how.facts for name in GPS_FACTS),
            xxh128="xxh128" in how.facts,
        )  # fmt: skip
        self.fetch = concurrent.futures.ThreadPoolExecutor(how.fetch_threads, "fetch")

    def close(self) -> None:
        self.fetch.shutdown(cancel_futures=True)
        self._stack.close()


class _Pending:
    """One batch being read and decoded.

    Files on disk are read by the decoder processes. What lies elsewhere is read by threads, as
    reading waits; but archives that have to be read front to back by one process, in order.
    """

    def __init__(self, unit: Unit, refs: pa.RecordBatch, last: bool, how: Decoding, pools: Pools):
        self._unit, self._refs, self._last = unit, refs, last
        self._how, self._pools = how, pools
        rows = refs.num_rows
        self._pixels = np.empty((rows, *how.spec.shape), np.uint8)
        self._status = [Status.OK.value] * rows
        self._error: list[str | None] = [None] * rows
        self._width: list[int | None] = [None] * rows
        self._height: list[int | None] = [None] * rows
        self._format: list[str | None] = [None] * rows
        self._bytes: list[int | None] = [None] * rows
        self._facts: dict[str, list[Any]] = {name: [None] * rows for name in how.facts}
        self._noted: collections.Counter[str] = collections.Counter()
        self._spent = {"read": [0.0, 0.0], "decode": [0.0, 0.0]}  # wall and CPU seconds
        self._defect: Exception | None = None
        self._left = rows
        self._change, self._decoded = threading.Lock(), threading.Event()
        names = ("uri", "size", "etag_or_mtime", "container", "member")
        columns = [refs.column(name).to_pylist() for name in names]
        self._images = [
            ImageRef(uri=uri, size=size, etag=etag, container=container, member=member)
            for uri, size, etag, container, member in zip(*columns, strict=True)
        ]
        pools.decoders.submit(
            [one for row, ref in enumerate(self._images) if (one := self._begin(row, ref))]
        )

    def _begin(self, row: int, ref: ImageRef) -> Request | None:
        """The first request for a row; None: a thread reads it first."""
        if ref.member is not None and is_sequential(ref.member):
            return Request(
                call="read", done=functools.partial(self._read, row), ref=ref,
                max_bytes=self._how.max_bytes, seconds=self._how.seconds,
                pin=ref.container or "", place=place_of(ref),
            )  # fmt: skip
        if store.is_remote(ref.uri):
            self._pools.fetch.submit(self._fetch, row, ref)
            return None
        return self._decoding(row, ref=ref, max_bytes=self._how.max_bytes)

    def _decoding(self, row: int, **source: Any) -> Request:
        return Request(
            call="decode", done=functools.partial(self._done, row), seconds=self._how.seconds,
            out=self._pixels[row], how=self._pools.request, **source,
        )  # fmt: skip

    def _fetch(self, row: int, ref: ImageRef) -> None:
        """Reads a row in this thread, and has it decoded."""
        try:
            with doing("read", ref.uri), counters.STAGES.measure("read"):
                fault_injection.reached("read")
                where = None if ref.member is None else as_stored(ref.member)
                data = read_image(
                    ref.uri, ref.size, ref.etag, self._how.max_bytes,
                    container=ref.container, member=where,
                )  # fmt: skip
            packed = ref if where != ref.member else None
            self._pools.decoders.submit([self._decoding(row, data=data, ref=packed)])
        except Exception as error:
            self._done(row, Answer(error=error))

    def _read(self, row: int, answer: Answer) -> None:
        """A member was read: it is decoded, by whichever process has time."""
        if answer.data is None:
            self._done(row, answer)
            return
        self._add_spent(row, answer)
        decoders, held = self._pools.decoders, len(answer.data)
        decoders.hold(held)
        decoders.submit([self._decoding(row, data=answer.data, held=held)])

    def _done(self, row: int, answer: Answer) -> None:
        """Keeps what became of a row."""
        try:
            self._keep(row, answer)
        except Exception as defect:
            self._defect = defect
        with self._change:
            self._left -= 1
            if not self._left:
                self._decoded.set()

    def _keep(self, row: int, answer: Answer) -> None:
        self._add_spent(row, answer)
        self._bytes[row] = answer.size
        if "xxh128" in self._facts:
            self._facts["xxh128"][row] = answer.xxh128
        error, info = answer.error, answer.info
        if isinstance(error, ImageError):
            self._status[row], self._error[row] = error.status, str(error)
            self._format[row] = error.image_format
        elif error or not info:
            raise error or AssertionError(row)
        else:
            self._width[row], self._height[row] = info.width, info.height
            self._format[row] = info.format
            for name, values in self._facts.items():
                if name != "xxh128":
                    values[row] = getattr(info, name)
            with self._change:
                self._noted.update(counters.noted_of(info))

    def _add_spent(self, row: int, answer: Answer) -> None:
        for stage, (wall, cpu) in answer.spent.items():
            with self._change:
                self._spent[stage][0] += wall
                self._spent[stage][1] += cpu
            activity.note(stage, self._images[row].uri, wall)

    def result(self) -> ImageBatch:
        """Waits until the batch is decoded."""
        if self._images:
            self._decoded.wait()
        if self._defect:
            raise self._defect
        for stage, (wall, cpu) in self._spent.items():
            counters.STAGES.add_elsewhere(stage, cpu, wall)
        good = [row for row, status in enumerate(self._status) if status == Status.OK.value]
        pixels = self._pixels if len(good) == len(self._status) else self._pixels[good]
        return ImageBatch(
            unit=self._unit,
            refs=self._refs,
            status=self._status,
            error=self._error,
            width=self._width,
            height=self._height,
            format=self._format,
            bytes=self._bytes,
            pixels=pixels,
            last=self._last,
            facts=self._facts,
            noted=self._noted,
        )


class ReadAhead:
    """The batches being read and decoded ahead of the model, in order.

    It goes on from unit to unit: readers need not wait until the model is through with a unit.
    """

    def __init__(self, how: Decoding, pools: Pools):
        self._how, self._pools = how, pools
        self._waiting: collections.deque[_Pending] = collections.deque()

    def add(self, unit: Unit, refs: pa.RecordBatch) -> Iterator[ImageBatch]:
        """Begins the references of one unit.

        Yields:
          ImageBatch of `how.batch_images` references or less, of units added before, then of this
          one, in row order. A unit's last one has `last`; `rest` gives those not yielded here.
        """
        size = self._how.batch_images
        for start in range(0, refs.num_rows, size):
            last = start + size >= refs.num_rows
            batch = _Pending(unit, refs.slice(start, size), last, self._how, self._pools)
            self._waiting.append(batch)
            if len(self._waiting) > self._how.window_batches:
                yield self._waiting.popleft().result()

    def rest(self) -> Iterator[ImageBatch]:
        """Yields what was begun and not yielded yet."""
        while self._waiting:
            yield self._waiting.popleft().result()


@dataclasses.dataclass(kw_only=True)
class DecodeImages(beam.PTransform):
    """Units to decoded batches: `PCollection[Unit]` → `PCollection[ImageBatch]`."""

    how: Decoding
    parts: str  # their folder: a revised unit takes rows over

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[ImageBatch]:
        do_fn = _DecodeImages(self.how, self.parts)
        return units | beam.ParDo(do_fn).with_output_types(ImageBatch)


class _DecodeImages(beam.DoFn):
    def __init__(self, how: Decoding, parts: str):
        self._how, self._parts = how, parts

    def setup(self) -> None:
        self._how.web.apply()
        self._pools = Pools(self._how)

    def start_bundle(self) -> None:
        self._ahead = ReadAhead(self._how, self._pools)

    def process(self, unit: Unit) -> Iterator[ImageBatch]:
        if STOP.is_set():
            return
        counters.UNITS.inc()
        fault_injection.reached("unit.begun")
        refs, taken = work_plan.read_taken(unit)
        if unit.base >= 0:
            again = parts.missing(taken, parts.rows_to_take(self._parts, unit))
            refs = refs.filter(pa.array(again))
        for batch in self._ahead.add(unit, refs):
            _count(batch)
            yield batch

    def finish_bundle(self) -> Iterator[Any]:
        for batch in self._ahead.rest():
            _count(batch)
            yield GlobalWindows.windowed_value(batch)

    def teardown(self) -> None:
        self._pools.close()


def _count(batch: ImageBatch) -> None:
    """Counts a batch; here, as Beam's metrics belong to the thread that works on a bundle."""
    counters.IMAGES_READ.inc(len(batch))
    counters.BYTES_READ.inc(sum(size or 0 for size in batch.bytes))
    for name, images in batch.noted.items():
        counters.NOTED[name].inc(images)
    for slow in activity.take_slow():
        counters.IMAGES_SLOW.inc()
        counters.SLOW.add(redact(json.dumps(slow)))
