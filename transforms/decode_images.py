"""From units of references to a stream of decoded batches, on all cores.

While one batch is in the model, decoder processes read and decode the next ones. The window of
batches in flight bounds the memory; nothing waits for a whole unit.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders.typecoders import registry
from apache_beam.transforms.window import GlobalWindows

from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.common.redact import redact
from imagecensus.transforms import activity, counters
from imagecensus.transforms.batch_coder import ImageBatchCoder
from imagecensus.transforms.dataset import parts, work_plan
from imagecensus.transforms.decoders.decode_batch import DecodingConfig, Pending, Pools
from imagecensus.transforms.local_run import LOCAL_RUN
from imagecensus.transforms.records import ImageBatch, Unit


class ReadAhead:
    """The batches being read and decoded ahead of the model, in order.

    It goes on from unit to unit: readers need not wait until the model is through with a unit.
    """

    def __init__(self, config: DecodingConfig, pools: Pools):
        self._config, self._pools = config, pools
        self._waiting: collections.deque[Pending] = collections.deque()

    def add(self, unit: Unit, refs: pa.RecordBatch) -> Iterator[ImageBatch]:
        """Begins the references of one unit.

        Yields:
          ImageBatch of `config.batch` references or less, of units added before, then of this
          one, in row order. A unit's last one has `last`; `rest` gives those not yielded here.
        """
        size, shape = self._config.batch, self._config.spec.shape
        for start in range(0, refs.num_rows, size):
            last = start + size >= refs.num_rows
            cut = refs.slice(start, size)
            batch = ImageBatch.of(unit, cut, shape, facts=self._config.facts, last=last)
            self._waiting.append(Pending(batch, self._config, self._pools))
            if len(self._waiting) > self._config.window_batches:
                yield self._waiting.popleft().result()

    def rest(self) -> Iterator[ImageBatch]:
        """Yields what was begun and not yielded yet."""
        while self._waiting:
            yield self._waiting.popleft().result()


@dataclasses.dataclass(kw_only=True)
class DecodeImages(beam.PTransform):
    """Units to decoded batches: `PCollection[Unit]` → `PCollection[ImageBatch]`."""

    config: DecodingConfig
    parts: str  # their folder: a revised unit takes rows over

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[ImageBatch]:
        registry.register_coder(ImageBatch, ImageBatchCoder)
        do_fn = _DecodeImages(self.config, self.parts)
        return units | beam.ParDo(do_fn).with_output_types(ImageBatch)


class _DecodeImages(beam.DoFn):
    def __init__(self, config: DecodingConfig, parts: str):
        self._config, self._parts = config, parts

    def setup(self) -> None:
        self._config.web.apply()
        self._pools = Pools(self._config)

    def start_bundle(self) -> None:
        self._ahead = ReadAhead(self._config, self._pools)

    def process(self, unit: Unit) -> Iterator[ImageBatch]:
        if LOCAL_RUN.stop.is_set():
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
        counters.IN_BATCHES[name].inc(images)
    for slow in activity.take_slow():
        counters.IMAGES_SLOW.inc()
        counters.SLOW.add(redact(json.dumps(slow)))
