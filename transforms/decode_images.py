"""From units of references to a stream of decoded batches, on all cores.

While one batch is in the model, threads read and decode the next ones. The window of batches in
flight bounds the memory; nothing waits for a whole unit.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import threading
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import xxhash
from apache_beam.transforms.window import GlobalWindows

from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.common.redact import redact
from imagecensus.model_export.decoding import pages
from imagecensus.model_export.preprocess import (
    MAX_PIXELS,
    MAX_SIDE,
    ImageError,
    ImageInfo,
    PreprocessSpec,
    configure_pillow,
)
from imagecensus.transforms import activity, counters, fault_injection
from imagecensus.transforms.activity import doing
from imagecensus.transforms.archives.reading import Place, Turns, is_sequential
from imagecensus.transforms.dataset import parts, work_plan
from imagecensus.transforms.decoders import isolate
from imagecensus.transforms.decoders.guard_decoding import Guard
from imagecensus.transforms.read_images import MAX_BYTES
from imagecensus.transforms.records import GPS_FACTS, ImageBatch, Status, Unit
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web.policy import WebPolicy

# Set by Ctrl-C in a run in this very process: units not begun yet are left for the rerun.
STOP = threading.Event()

_TASK_IMAGES = 4  # images per thread task: small against a batch, large against a task's overhead


@dataclasses.dataclass(frozen=True)
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
    threads: int = 0  # 0: one per core
    fetch_threads: int = 64  # readers ahead of the decoders, for stores and the web only
    journal: str = ""  # folder of the decoders' journals; empty: none
    seconds: float = isolate.DECODE_SECONDS  # longest that one image may take
    web: WebPolicy = WebPolicy()  # how web addresses are read
    memory: int = isolate.DECODE_MEMORY  # most that a suspect of an earlier crash may take
    facts: tuple[str, ...] = ()  # columns of `FACT_TYPES` that are kept


class Pools:
    """The threads of one process: decoders, and readers where reading waits for a network."""

    def __init__(self, how: Decoding):
        threads = how.threads or usable_cores()
        self.decode = concurrent.futures.ThreadPoolExecutor(threads, "decode")
        workers = threads + how.fetch_threads
        self.guard = Guard(how.journal, workers, how.seconds, how.memory)
        self.fetch = concurrent.futures.ThreadPoolExecutor(how.fetch_threads, "fetch")
        self.place, self.turns = Place(), Turns()

    def close(self) -> None:
        self.decode.shutdown(cancel_futures=True)
        self.fetch.shutdown(cancel_futures=True)
        self.guard.close()
        self.place.close()


class _Pending:
    """One batch being read and decoded."""

    def __init__(self, unit: Unit, refs: pa.RecordBatch, last: bool, how: Decoding, pools: Pools):
        self._unit, self._refs, self._last = unit, refs, last
        self._how, self._guard = how, pools.guard
        rows = refs.num_rows
        self._pixels = np.empty((rows, *how.spec.shape), np.uint8)
        self._status = [Status.OK.value] * rows
        self._error = [None] * rows
        self._width, self._height = [None] * rows, [None] * rows
        self._format, self._bytes = [None] * rows, [None] * rows
        self._facts = {name: [None] * rows for name in how.facts}
        self._noted = [()] * rows
        self._gps = any(name in how.facts for name in GPS_FACTS)
        self._uris = refs.column("uri").to_pylist()
        self._sizes = refs.column("size").to_pylist()
        self._etags = refs.column("etag_or_mtime").to_pylist()
        self._containers = refs.column("container").to_pylist()
        self._members = refs.column("member").to_pylist()
        self._place, self._turns = pools.place, pools.turns
        # Rows that must be read in order, whichever thread does it, have a ticket.
        self._tickets = {
            row: pools.turns.draw()
            for row, member in enumerate(self._members)
            if member is not None and is_sequential(member)
        }
        self._fetched = {}
        for row, uri in enumerate(self._uris):
            if store.is_remote(uri) and row not in self._tickets:
                self._fetched[row] = pools.fetch.submit(self._read, row)
        step = 1 if self._tickets else _TASK_IMAGES
        self._tasks = [
            pools.decode.submit(self._decode_rows, range(at, min(at + step, rows)))
            for at in range(0, rows, step)
        ]

    def _read(self, row: int) -> bytes:
        uri, ticket = self._uris[row], self._tickets.get(row)
        turn = self._turns.turn(ticket) if ticket is not None else contextlib.nullcontext()
        with turn, doing("read", uri), counters.STAGES.measure("read"):
            fault_injection.reached("read")
            return self._guard.read(
                uri,
                self._sizes[row],
                self._etags[row],
                self._how.max_bytes,
                self._containers[row],
                self._members[row],
                self._place if ticket is not None else None,
            )

    def _decode_rows(self, rows: range) -> None:
        """Reads and decodes some rows in this thread."""
        for row in rows:
            try:
                fetched = self._fetched.pop(row, None)
                data = fetched.result() if fetched else self._read(row)
                self._bytes[row] = pages.size_of(data)
                if "xxh128" in self._facts:
                    self._facts["xxh128"][row] = xxhash.xxh3_128_hexdigest(data)
                with counters.STAGES.measure("decode"):
                    info = self._guard.decode(
                        self._uris[row],
                        data,
                        self._how.spec,
                        self._pixels[row],
                        self._how.max_pixels,
                        self._how.max_side,
                        self._gps,
                    )
                self._keep(row, info)
            except ImageError as error:
                self._status[row] = error.status
                self._error[row] = str(error)
                self._format[row] = error.image_format

    def _keep(self, row: int, info: ImageInfo) -> None:
        """Notes what a file said of itself."""
        self._width[row], self._height[row] = info.width, info.height
        self._format[row] = info.format
        for name, values in self._facts.items():
            if name != "xxh128":
                values[row] = getattr(info, name)
        self._noted[row] = counters.noted_of(info)

    def result(self) -> ImageBatch:
        """Waits for the batch's tasks."""
        for task in self._tasks:
            task.result()
        good = [row for row, status in enumerate(self._status) if status == Status.OK.value]
        pixels = self._pixels if len(good) == len(self._status) else self._pixels[good]
        return ImageBatch(
            self._unit,
            self._refs,
            self._status,
            self._error,
            self._width,
            self._height,
            self._format,
            self._bytes,
            pixels,
            self._last,
            self._facts,
            collections.Counter(itertools.chain.from_iterable(self._noted)),
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


@dataclasses.dataclass
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

    def setup(self):
        configure_pillow()
        self._how.web.apply()
        self._pools = Pools(self._how)

    def start_bundle(self):
        self._ahead = ReadAhead(self._how, self._pools)

    def process(self, unit: Unit):
        if STOP.is_set():
            return
        counters.UNITS.inc()
        fault_injection.reached("unit.begun")
        self._pools.guard.find_suspects()
        refs, taken = work_plan.read_taken(unit)
        if unit.base >= 0:
            again = parts.missing(taken, parts.rows_to_take(self._parts, unit))
            refs = refs.filter(pa.array(again))
        for batch in self._ahead.add(unit, refs):
            _count(batch)
            yield batch

    def finish_bundle(self):
        for batch in self._ahead.rest():
            _count(batch)
            yield GlobalWindows.windowed_value(batch)

    def teardown(self):
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
