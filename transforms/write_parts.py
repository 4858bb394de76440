"""From prediction batches to parts, each committed as soon as its unit is complete."""

from __future__ import annotations

import dataclasses

import apache_beam as beam
import pyarrow as pa

from imagecensus.transforms import counters
from imagecensus.transforms.activity import doing
from imagecensus.transforms.dataset import parts, work_plan
from imagecensus.transforms.records import PredictionBatch, Status
from imagecensus.transforms.storage import store


@dataclasses.dataclass
class WriteParts(beam.PTransform):
    """Writes one part per unit: `PCollection[PredictionBatch]` → locations of the parts.

    Attributes:
      folder: where the parts go.
      provenance: for the parts' footers.
      compression: "zstd" or "snappy".
    """

    folder: str
    provenance: dict
    compression: str = "zstd"

    def expand(self, batches: beam.PCollection[PredictionBatch]) -> beam.PCollection[str]:
        do_fn = _WriteParts(self.folder, self.provenance, self.compression)
        return batches | beam.ParDo(do_fn).with_output_types(str)


class _WriteParts(beam.DoFn):
    def __init__(self, folder: str, provenance: dict, compression: str):
        self._folder, self._provenance, self._compression = folder, provenance, compression

    def start_bundle(self):
        self._open = {}

    def process(self, batch: PredictionBatch):
        gathered = self._open.setdefault(batch.unit.name, [])
        gathered.append(batch.rows)
        if not batch.last:
            return
        with doing("write", batch.unit.name), counters.STAGES.measure("write"):
            location = self._write(batch)
        counters.PARTS_WRITTEN.inc()
        yield location

    def _write(self, batch: PredictionBatch) -> str:
        unit = batch.unit
        rows = pa.Table.from_batches(self._open.pop(unit.name))
        counted = rows
        if unit.base >= 0:
            old = parts.rows_to_take(self._folder, unit)
            if old is None and store.exists(parts.part_location(self._folder, unit)):
                return parts.part_location(self._folder, unit)  # another attempt was first
            rows = parts.assemble(*work_plan.read_taken(unit), old, rows)
        location = parts.write_part(self._folder, unit, rows, self._provenance, self._compression)
        ok = counted.column("status").to_pylist().count(Status.OK.value)
        counters.IMAGES_OK.inc(ok)
        counters.IMAGES_FAILED.inc(counted.num_rows - ok)
        return location

    def finish_bundle(self):
        # Batches of a unit come from one DoFn in one bundle, through stages that every runner
        # fuses. Should one not, the bundle must fail: half a part would lose images silently.
        if self._open:
            raise RuntimeError(
                f"units {sorted(self._open)} were split between workers; this runner does not"
                " fuse the stages after the reshuffle"
            )
