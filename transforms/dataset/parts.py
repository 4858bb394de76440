"""The parts of the output: one Parquet file a unit, whole or absent, never rewritten.

Rows of a part are in the order of the unit's references, and reproduce the unit's digest. A unit
that is revised gets a further part, `part-UNIT.r1.parquet`; the part before is removed when the new
one is in place, and the highest revision counts wherever both are found.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imagecensus.transforms.dataset import checksum
from imagecensus.transforms.dataset.merging import STATE, read_merge
from imagecensus.transforms.dataset.work_plan import read_taken, unit_name
from imagecensus.transforms.records import (
    OUTPUT_COLUMNS,
    REF_COLUMNS,
    TOP_K_TYPE,
    Unit,
    facts_in,
    prediction_schema,
)
from imagecensus.transforms.storage import store

PROVENANCE_KEY = b"imagecensus"
UNIT_KEY = b"imagecensus.unit"
_NAME = re.compile(r"part-([^.]+)(?:\.r(\d+))?\.parquet")


class PartFile(NamedTuple):
    """A part as the folder lists it."""

    unit: str
    revision: int
    location: str
    size: int
    version: str


def part_location(folder: str, unit: Unit, revision: int | None = None) -> str:
    """Where the part of a unit is, of its present revision or of another."""
    number = unit.revision if revision is None else revision
    return store.join(folder, f"part-{unit.name}{f'.r{number}' if number else ''}.parquet")


def unit_of(location: str) -> str:
    """The name of the unit of a part; empty: it is none."""
    match = _NAME.fullmatch(location.rpartition("/")[2])
    return match[1] if match else ""


def list_part_files(folder: str) -> list[PartFile]:
    """All parts in the folder, of every revision, lowest first. Raises StorageError.

    While parts are merged, those that count.
    """
    found = []
    merge = read_merge(store.join(folder.rpartition("/")[0], STATE), folder)
    for stored in store.list_folder(folder):
        name = stored.uri.rpartition("/")[2]
        match = _NAME.fullmatch(name)
        if match and (merge is None or merge.counts(name)):
            revision = int(match[2] or 0)
            found.append(PartFile(match[1], revision, stored.uri, stored.size, stored.version))
    return sorted(found, key=lambda part: part[:2])


def list_parts(folder: str) -> dict[str, str]:
    """unit name → location of its highest revision, of all parts in the folder."""
    return {part.unit: part.location for part in list_part_files(folder)}


def write_part(
    folder: str, unit: Unit, rows: pa.Table, provenance: dict[str, Any], compression: str = "zstd"
) -> str:
    """Writes a unit's rows as its part, unless it has one already; returns the location.

    The footer carries `provenance` as JSON under the key `imagecensus`; its `fingerprint` is that
    of the dataset. Pages carry checksums, so that damage is found when they are read, and the
    whole file a checksum.

    Raises:
      RuntimeError: the rows are not those of the unit: one is lost, doubled, or another's.
      StorageError: the part cannot be written.
    """
    if rows.num_rows != unit.rows:
        raise RuntimeError(f"unit {unit.name}: {rows.num_rows} rows for {unit.rows} references")
    if unit_name(rows, provenance["fingerprint"]) != unit.expected:
        raise RuntimeError(f"unit {unit.name}: its rows are not those of its references")
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
    with contextlib.suppress(store.ConflictError):  # another attempt was first: the same images
        store.write(location, checksum.add_checksum(sink.getvalue()), create_only=True)
    if unit.base >= 0:  # only now: a reader that finds both takes the higher one
        store.delete(part_location(folder, unit, unit.base))
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
    # Not by Arrow's threads: where memory is short it cannot start them, and waits for ever.
    parquet = pq.ParquetFile(io.BytesIO(checksum.check(store.read(location))))
    return parquet.read(columns, use_threads=False)


def rows_to_take(folder: str, unit: Unit) -> pa.Table | None:
    """The part whose rows a revision takes over; None: the unit has none, or it is damaged."""
    if unit.base < 0:
        return None
    try:
        return read_part(part_location(folder, unit, unit.base))
    except (OSError, ValueError):  # damage: all is classified again
        return None


def missing(taken: list[str | None], old: pa.Table | None) -> list[bool]:
    """Which references have no row to take over: they are to be classified."""
    there = set(old.column("uri").to_pylist()) if old is not None else set()
    return [uri is None or uri not in there for uri in taken]


def assemble(
    refs: pa.RecordBatch, taken: list[str | None], old: pa.Table | None, new: pa.Table | None
) -> pa.Table:
    """The rows of a revision: new ones where there are some, the others taken over, all by uri.

    Args:
      refs: the references of the revision.
      taken: for each the uri of its row in `old`, or None.
      old: the part before.
      new: what was classified.

    Raises:
      RuntimeError: a reference has no row, or a row no reference.
    """
    passthrough = pa.schema([field for field in refs.schema if field.name not in REF_COLUMNS])
    size = next((vector_size(rows) for rows in (new, old) if rows is not None), None)
    facts = next((facts_in(rows) for rows in (new, old) if rows is not None), ())
    schema = prediction_schema(passthrough, size, facts)
    sources = [conform(rows, schema) for rows in (new, old) if rows is not None]
    fresh = new.column("uri").to_pylist() if new is not None else []
    places = {uri: at for at, uri in enumerate(fresh)}
    if len(places) != len(fresh):
        raise RuntimeError("an image was classified twice")
    old_places = {}
    if old is not None:
        old_places = {uri: len(fresh) + at for at, uri in enumerate(old.column("uri").to_pylist())}
    order = []
    for uri, before in zip(refs.column("uri").to_pylist(), taken, strict=True):
        at = places.pop(uri, None)
        if at is None:
            at = old_places.get(before)
        if at is None:
            raise RuntimeError(f"{uri}: has no row")
        order.append(at)
    if places:
        raise RuntimeError(f"{next(iter(places))}: was classified, and is not in the unit")
    rows = pa.concat_tables(sources).unify_dictionaries().take(order)
    for name in ("uri", "etag_or_mtime", *passthrough.names):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), refs.column(name))
    return rows


def vector_size(rows: pa.Table) -> int | None:
    """The length of the embeddings; None without any."""
    at = rows.schema.get_field_index("embedding")
    return rows.schema.field(at).type.list_size if at >= 0 else None


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with the columns of the schema; what they lack is null, what it lacks goes."""
    columns = [
        rows.column(field.name).cast(field.type)
        if field.name in rows.schema.names
        and (field.name in OUTPUT_COLUMNS or rows.schema.field(field.name).type == field.type)
        else pa.chunked_array([pa.nulls(rows.num_rows, field.type)])
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def is_settled(folder: str, unit: Unit) -> bool:
    """Whether every row of a unit is taken over from its part before: nothing is classified."""
    if unit.base < 0:
        return False
    _, taken = read_taken(unit)
    return None not in taken and not any(missing(taken, rows_to_take(folder, unit)))


def settle(folder: str, unit: Unit, provenance: dict[str, Any], compression: str) -> None:
    """Writes the part of such a unit."""
    refs, taken = read_taken(unit)
    rows = assemble(refs, taken, rows_to_take(folder, unit), None)
    write_part(folder, unit, rows, provenance, compression)
