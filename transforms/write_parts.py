"""From prediction batches to parts, each committed as soon as its unit is complete."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from imagecensus.transforms import counters
from imagecensus.transforms.activity import doing
from imagecensus.transforms.begin_units import FENCE_SECONDS
from imagecensus.transforms.dataset import compaction, inventory, parts, work_plan
from imagecensus.transforms.dataset.epoch import Fence
from imagecensus.transforms.local_run import LOCAL_RUN
from imagecensus.transforms.records import PredictionBatch


@dataclasses.dataclass(kw_only=True)
class WriteParts(beam.PTransform):
    """Writes one part per unit: `PCollection[PredictionBatch]` → locations of the parts.

    Attributes:
      folder: where the parts go.
      provenance: for the parts' footers.
      compression: "zstd" or "snappy".
      fence: of the run; None: nothing can outlive its launcher.
    """

    folder: str
    provenance: dict[str, Any]
    compression: str = "zstd"
    fence: Fence | None = None

    def expand(self, batches: beam.PCollection[PredictionBatch]) -> beam.PCollection[str]:
        do_fn = _WriteParts(self.folder, self.provenance, self.compression, self.fence)
        return batches | beam.ParDo(do_fn).with_output_types(str)


class _WriteParts(beam.DoFn):
    def __init__(
        self, folder: str, provenance: dict[str, Any], compression: str, fence: Fence | None
    ):
        self._folder, self._provenance, self._compression = folder, provenance, compression
        self._fence = fence

    def start_bundle(self) -> None:
        self._open: dict[str, list[pa.RecordBatch]] = {}

    def process(self, batch: PredictionBatch) -> Iterator[str]:
        gathered = self._open.setdefault(batch.unit.name, [])
        gathered.append(batch.rows)
        if not batch.last:
            return
        with doing("write", batch.unit.name), LOCAL_RUN.measure("write"):
            if self._fence and not self._fence.is_held():
                # A later run may have revised the unit, or put its rows into another part.
                del self._open[batch.unit.name]
                counters.UNITS_FENCED.inc()
                return
            location = self._write(batch)
            if self._fence and not self._fence.is_held():  # it was lost while the part was written
                state = batch.unit.plan.rpartition("/")[0]
                compaction.remove_late(state, [location], self._provenance["fingerprint"])
        if self._fence:
            self._fence.sign(FENCE_SECONDS)
        counters.PARTS_WRITTEN.inc()
        yield location

    def _write(self, batch: PredictionBatch) -> str:
        unit = batch.unit
        rows = pa.Table.from_batches(self._open.pop(unit.name))
        counted = rows
        if unit.base >= 0:
            old = parts.rows_to_take(self._folder, unit)
            if old is None and rows.num_rows < unit.rows:
                # The part that it takes rows over from has gone meanwhile: another attempt was
                # first, or a later revision.
                return parts.part_location(self._folder, unit)
            rows = parts.assemble(*work_plan.read_taken(unit), old, rows)
        made_by = self._provenance | ({"engine": batch.engine} if batch.engine else {})
        location = parts.write_part(self._folder, unit, rows, made_by, self._compression)
        unpredicted = inventory.unpredicted(counted)
        not_images = inventory.count_no_images(unpredicted)
        counters.IMAGES_OK.inc(counted.num_rows - len(unpredicted))
        counters.IMAGES_FAILED.inc(len(unpredicted) - not_images)
        if not_images:
            counters.NOT_IMAGES.inc(not_images)
        return location

    def finish_bundle(self) -> None:
        # Batches of a unit come from one DoFn in one bundle, through stages that every runner
        # fuses. Should one not, the bundle must fail: half a part would lose images silently.
        if self._open:
            raise RuntimeError(
                f"units {sorted(self._open)} were split between workers; this runner does not"
                " fuse the stages after the reshuffle"
            )
