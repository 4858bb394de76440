"""The plan of a dataset: every image ever listed into it, cut into units of work.

The plan is the dataset's memory. It lives beside the output as append-only Parquet files, one row
group a unit; an image that is in the plan is never listed again, and a unit is finished when its
part exists. So a rerun needs to look at names only, and a retry does exactly the same unit again.
Workers get a `Unit` and read its references from here, so that a shuffle carries no references.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.redact import redact_column
from imagecensus.transforms import fault_injection
from imagecensus.transforms.dataset import checksum
from imagecensus.transforms.records import REF_COLUMNS, REF_FIELDS, Unit
from imagecensus.transforms.storage import store

UNIT_ROWS = 512  # seconds of work, so that Ctrl-C and a lost worker cost little
UNITS_PER_FILE = 512
_UNITS_KEY = b"imagecensus.units"
_DIGEST = "S16"
WHOLE = (0, 1)  # the shard that is everything


class PlanError(UserError):
    """The plan of an output cannot be used. The message names the file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """What planning came to: `listed` = `known` + `duplicates` + `added`, in images."""

    listed: int
    known: int
    duplicates: int
    added: int
    units: list[Unit]


class DigestSet:
    """A set of 16-byte digests in 16 bytes each, with whole-array operations.

    Sorted arrays of doubling size, merged like a log-structured tree: n insertions cost
    O(n log^2 n) comparisons, all of them inside numpy.
    """

    def __init__(self):
        self._levels: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """bool [N]: which of the `S16 [N]` digests are in the set."""
        found = np.zeros(len(digests), bool)
        for level in self._levels:
            at = np.searchsorted(level, digests)
            at[at == len(level)] = 0
            found |= level[at] == digests
        return found

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Adds `S16 [N]` digests; bool [N]: which were new, each of them once."""
        fresh = np.zeros(len(digests), bool)
        fresh[np.unique(digests, return_index=True)[1]] = True
        fresh &= ~self.contains(digests)
        merged = np.sort(digests[fresh])
        while self._levels and len(self._levels[-1]) <= len(merged):
            merged = np.sort(np.concatenate([self._levels.pop(), merged]), kind="stable")
        if len(merged):
            self._levels.append(merged)
        return fresh


def uri_digests(uris: pa.Array) -> np.ndarray:
    """`S16 [N]`: the first 16 bytes of each uri's BLAKE2b."""
    blake2b = hashlib.blake2b
    return np.array(
        [blake2b(uri.encode(), digest_size=16).digest() for uri in uris.to_pylist()], _DIGEST
    )


def shard_of(digests: np.ndarray, shards: int) -> np.ndarray:
    """Which of `shards` shards each image belongs to: the same on every machine."""
    words = np.frombuffer(digests.astype(_DIGEST).tobytes(), ">u8").reshape(-1, 2)
    return (words[:, 0] % np.uint64(shards)).astype(np.int64)


def shard_tag(shard: tuple[int, int]) -> str:
    """What marks a shard's files: nothing for a run over everything, `s0of4-` for shard 0 of 4."""
    return "" if shard == WHOLE else f"s{shard[0]}of{shard[1]}-"


def read_units(folder: str, shard: tuple[int, int] = WHOLE) -> list[Unit]:
    """All units of a plan folder, in the order they were planned; for a shard, its own."""
    units = []
    for plan in _plan_files(folder, shard):
        names = _read_footer(plan)
        for row_group, (name, rows) in enumerate(names):
            units.append(Unit(name, plan, row_group, rows))
    return units


def read_unit(unit: Unit) -> pa.RecordBatch:
    """The references of one unit: `REF_SCHEMA`, then passthrough columns."""
    with _damage_told(unit.plan):
        table = _open_plan(unit.plan).read_row_group(unit.row_group).combine_chunks()
        return table.to_batches()[0]


def find_references(folder: str, uris: list[str]) -> dict[str, dict]:
    """uri → the fields of `REF_SCHEMA`, of those images that are in the plan."""
    found = {}
    for plan in _plan_files(folder):
        # Row groups are in listing order: their statistics leave few of them to be read.
        table = pq.read_table(
            io.BytesIO(checksum.check(store.read(plan))),
            columns=list(REF_COLUMNS),
            filters=pc.field("uri").isin(uris),
        )
        found |= {row["uri"]: row for row in table.to_pylist()}
    return found


def planned_digests(folder: str) -> DigestSet:
    """The digests of every image in the plan."""
    known = DigestSet()
    for plan in _plan_files(folder):
        with _damage_told(plan):
            parquet = pq.ParquetFile(io.BytesIO(checksum.check(store.read(plan))))
            digests = [uri_digests(b.column(0)) for b in parquet.iter_batches(columns=["uri"])]
        if digests:
            known.add(np.concatenate(digests))
    return known


def plan_units(
    references: Iterable[pa.RecordBatch],
    folder: str,
    fingerprint: str,
    *,
    passthrough: pa.Schema,
    unit_rows: int = UNIT_ROWS,
    limit: int | None = None,
    shard: tuple[int, int] = WHOLE,
    dry_run: bool = False,
    progress=lambda listed: None,
) -> Planned:
    """Cuts the images that are not in the plan yet into units, and appends them to the plan.

    Args:
      references: batches from `list_images`.
      folder: where the plan lives.
      fingerprint: of the dataset; goes into the units' names.
      passthrough: the manifests' columns of this dataset; images that lack them get nulls.
      unit_rows: images per unit, the bound of a part's rows.
      limit: stop listing after so many images.
      shard: (i, n): only the images of shard i of n.
      dry_run: count, write nothing.
      progress: called with the number of images listed so far.
    """
    known = planned_digests(folder)
    seen = DigestSet()
    schema = pa.schema([*REF_FIELDS, *passthrough])
    writer = _PlanWriter(folder, fingerprint, schema, unit_rows, dry_run, shard)
    listed = duplicates = already = 0
    for batch in references:
        digests = uri_digests(batch.column("uri"))
        if shard != WHOLE:
            mine = shard_of(digests, shard[1]) == shard[0]
            batch, digests = batch.filter(pa.array(mine)), digests[mine]
        if limit is not None and listed + batch.num_rows > limit:
            batch, digests = batch.slice(0, limit - listed), digests[: limit - listed]
        listed += batch.num_rows
        old = known.contains(digests)
        first = seen.add(digests)
        duplicates += int((~first).sum())
        already += int((old & first).sum())
        fresh = pa.array(first & ~old)
        writer.add(_conform(batch.filter(fresh), schema))
        progress(listed)
        fault_injection.reached("listed")
        if limit is not None and listed >= limit:
            break
    units = writer.finish()
    return Planned(listed, already, duplicates, sum(u.rows for u in units), units)


def _conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the schema's columns; absent ones are null, people's own redacted."""
    arrays = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        try:
            values = batch.column(index).cast(field.type)
            arrays.append(values if field in REF_FIELDS else redact_column(values))
        except pa.ArrowException as error:
            raise PlanError(f"column {field.name!r} does not fit {field.type}: {error}") from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _PlanWriter:
    """Gathers references into units, and units into plan files of bounded size."""

    def __init__(self, folder, fingerprint, schema, unit_rows, dry_run, shard):
        self._folder, self._fingerprint, self._schema = folder, fingerprint, schema
        self._unit_rows, self._dry_run = unit_rows, dry_run
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._file: list[tuple[str, pa.RecordBatch]] = []
        self._units: list[Unit] = []
        self._prefix = "plan-" + shard_tag(shard)
        self._count = len(_plan_files(folder, shard))

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows >= self._unit_rows:
            self._cut(everything=False)

    def finish(self) -> list[Unit]:
        self._cut(everything=True)
        self._write_file()
        return self._units

    def _cut(self, everything: bool) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
        start = 0
        while table.num_rows - start >= (1 if everything else self._unit_rows):
            rows = table.slice(start, self._unit_rows).to_batches()[0]
            self._file.append((unit_name(rows, self._fingerprint), rows))
            start += rows.num_rows
            if len(self._file) == UNITS_PER_FILE:
                self._write_file()
        rest = table.slice(start)
        self._waiting, self._rows = rest.to_batches(), rest.num_rows

    def _write_file(self) -> None:
        if not self._file:
            return
        names = [(name, rows.num_rows) for name, rows in self._file]
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
        location = store.join(self._folder, f"{self._prefix}{self._count:05d}-{digest}.parquet")
        self._count += 1
        if not self._dry_run:
            schema = self._schema.with_metadata({_UNITS_KEY: json.dumps(names).encode()})
            buffer = io.BytesIO()
            with pq.ParquetWriter(
                buffer, schema, compression="zstd", write_page_checksum=True
            ) as writer:
                for _, rows in self._file:
                    writer.write_batch(rows.cast(schema), row_group_size=self._unit_rows)
                writer.add_key_value_metadata({checksum.KEY: checksum.EMPTY})
            store.write(location, checksum.add_checksum(buffer.getvalue()))
        for row_group, (name, rows) in enumerate(names):
            self._units.append(Unit(name, location, row_group, rows))
        self._file = []


def unit_name(rows: pa.RecordBatch, fingerprint: str) -> str:
    """Digest of the references and the fingerprint."""
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=12)
    for column in ("uri", "etag_or_mtime"):
        for value in rows.column(column).to_pylist():
            digest.update(value.encode() + b"\0")
    return digest.hexdigest()


def _plan_files(folder: str, shard: tuple[int, int] = WHOLE) -> list[str]:
    """Every plan file, a shard's too; or those of one shard."""
    prefix = "plan-" + shard_tag(shard)
    return [
        store.join(folder, name)
        for name in store.list_names(folder)
        if name.startswith(prefix) and name.endswith(".parquet")
    ]


def _read_footer(plan: str) -> list[tuple[str, int]]:
    with _damage_told(plan):
        metadata = _open_plan(plan).schema_arrow.metadata
        return [tuple(entry) for entry in json.loads(metadata[_UNITS_KEY])]


@contextlib.contextmanager
def _damage_told(plan: str):
    try:
        yield
    except Exception as error:  # Arrow raises a dozen types for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PlanError(
            f"{plan}: the plan is damaged: {reason}; restore it from a copy,"
            " or start a new --output"
        ) from None


@functools.lru_cache(maxsize=4)
def _open_plan(plan: str) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(checksum.check(store.read(plan))))
