"""The parts of the output: one Parquet file a unit, whole or absent.

Rows of a part are in the order of the unit's references, and a part written twice from the same
unit by the same run has the same bytes.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagecensus.transforms.dataset import checksum
from imagecensus.transforms.records import TOP_K_TYPE, Status, Unit
from imagecensus.transforms.storage import store

PART_PREFIX, PART_SUFFIX = "part-", ".parquet"
PROVENANCE_KEY = b"imagecensus"
UNIT_KEY = b"imagecensus.unit"


def part_location(folder: str, unit: Unit) -> str:
    return store.join(folder, f"{PART_PREFIX}{unit.name}{PART_SUFFIX}")


def list_parts(folder: str) -> dict[str, str]:
    """unit name → location, of all parts in the folder."""
    return {
        name[len(PART_PREFIX) : -len(PART_SUFFIX)]: store.join(folder, name)
        for name in store.list_names(folder)
        if name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)
    }


def write_part(
    folder: str, unit: Unit, rows: pa.Table, provenance: dict, compression: str = "zstd"
) -> str:
    """Writes a unit's rows as its part; returns the location.

    The footer carries `provenance` as JSON under the key `imagecensus`. Pages carry checksums, so
    that damage is found by whoever reads them, and the whole file a checksum.
    """
    metadata = {
        PROVENANCE_KEY: json.dumps(provenance, sort_keys=True).encode(),
        UNIT_KEY: unit.name.encode(),
    }
    schema = rows.schema.with_metadata(metadata)
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        schema,
        compression=compression,
        use_dictionary=_dictionary_columns(schema),
        write_page_checksum=True,
        store_schema=True,
    ) as writer:
        writer.write_table(rows.cast(schema).combine_chunks())
        writer.add_key_value_metadata({checksum.KEY: checksum.EMPTY})
    location = part_location(folder, unit)
    store.write(location, checksum.add_checksum(sink.getvalue()))
    return location


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    """All but the embedding: no float repeats there, and the search is most of what it costs."""
    top_k = [f"top_k.list.element.{field.name}" for field in TOP_K_TYPE.value_type]
    return [name for name in schema.names if name != "embedding"] + top_k


def read_part(location: str, columns: list[str] | None = None) -> pa.Table:
    """A part's rows.

    Raises:
      DamagedError or OSError: the part is damaged or gone.
    """
    return pq.read_table(io.BytesIO(checksum.check(store.read(location))), columns=columns)


def read_provenance(location: str) -> dict:
    """The provenance in a part's footer."""
    metadata = pq.read_metadata(io.BytesIO(store.read(location))).metadata
    return json.loads(metadata[PROVENANCE_KEY])


def failed_rows(refs: pa.RecordBatch, folder: str, unit: Unit) -> pa.RecordBatch:
    """The references of a unit whose rows in its part are failures."""
    status = read_part(part_location(folder, unit), ["status"]).column("status")
    return refs.filter(pc.not_equal(pc.cast(status, pa.string()), Status.OK.value).combine_chunks())


def merge_retried(old: pa.Table, new: pa.Table) -> pa.Table:
    """The old rows, each failed one replaced by its new row."""
    places = np.flatnonzero(
        pc.not_equal(pc.cast(old.column("status"), pa.string()), Status.OK.value).to_numpy(
            zero_copy_only=False
        )
    )
    if len(places) != new.num_rows:
        raise RuntimeError(f"{new.num_rows} retried rows for {len(places)} failed ones")
    order = np.arange(old.num_rows)
    order[places] = old.num_rows + np.arange(new.num_rows)
    return pa.concat_tables([old, new.cast(old.schema)]).unify_dictionaries().take(order)


@dataclasses.dataclass
class Totals:
    """The totals of a dataset, from its rows."""

    rows: int = 0
    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    labels: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    @property
    def predicted(self) -> int:
        return self.statuses[Status.OK.value]

    @property
    def failed(self) -> int:
        return self.rows - self.predicted

    def add(self, rows: pa.Table) -> None:
        """Counts the columns `status` and `label`."""
        self.rows += rows.num_rows
        for column, counter in (("status", self.statuses), ("label", self.labels)):
            for entry in pc.value_counts(pc.cast(rows.column(column), pa.string())).to_pylist():
                if entry["values"] is not None:
                    counter[entry["values"]] += entry["counts"]


@dataclasses.dataclass
class Inventory:
    """What a scan of the parts found, against the plan."""

    totals: Totals
    pending: list[Unit]
    with_failures: list[Unit]
    damaged: list[str]
    unplanned: list[str]


def take_inventory(folder: str, units: list[Unit]) -> Inventory:
    """Reads every part once and compares it with the plan.

    A unit is pending when its part is absent or damaged (unreadable, checksum wrong, with another
    number of rows than planned, or another unit's part under this name).
    """
    parts = list_parts(folder)
    found = Inventory(Totals(), [], [], [], [])
    for unit in units:
        location = parts.pop(unit.name, None)
        if location is None:
            found.pending.append(unit)
            continue
        try:
            rows = read_part(location)
            owner = (rows.schema.metadata or {}).get(UNIT_KEY, b"").decode()
            intact = rows.num_rows == unit.rows and owner == unit.name
        except Exception:  # Arrow raises a dozen types for damaged files
            intact = False
        if not intact:
            found.damaged.append(location)
            found.pending.append(unit)
            continue
        failed_before = found.totals.failed
        found.totals.add(rows)
        if found.totals.failed > failed_before:
            found.with_failures.append(unit)
    found.unplanned = sorted(parts.values())
    return found
