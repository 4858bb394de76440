"""The plan of a dataset: every image ever listed into it, cut into units of work.

The plan is the dataset's memory. It lives beside the output as append-only Parquet files, one row
group a unit; a unit is finished when its part exists. A unit whose images have changed gets a
further revision in a later file: the highest one counts. Workers get the numbers of their units in
a file and read these from here, so that no shuffle carries references.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagecensus.model_export.common.errors import UserError, first_line
from imagecensus.transforms.archives.reading import is_sequential
from imagecensus.transforms.dataset import checksum, plan_index
from imagecensus.transforms.dataset.merging import PARTS, read_merge
from imagecensus.transforms.dataset.plan_index import Hashes, Head
from imagecensus.transforms.records import (
    PLAN_COLUMNS,
    REF_COLUMNS,
    SOURCE_COLUMN,
    TAKEN_COLUMN,
    Unit,
)
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.store import Stored

UNIT_ROWS = 512  # seconds of work, so that Ctrl-C and a lost worker cost little
UNITS_PER_FILE = 512
WHOLE = (0, 1)  # the shard that is everything
_UNITS_KEY = b"imagecensus.units"
ROW_COLUMN = "imagecensus.row"  # of rows that are read alone: their number in the plan file
_READERS = 16


class PlanError(UserError):
    """The plan of an output cannot be used. The message names the file and the remedy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFile:
    """One file of the plan: its units in the order of its rows, those without rows among them."""

    location: str
    units: tuple[Unit, ...]
    schema: pa.Schema = dataclasses.field(default_factory=lambda: pa.schema([]), compare=False)
    index: Head | None = dataclasses.field(default=None, compare=False)

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """int64 [units]: the row after each unit's last one."""
        return np.cumsum([unit.rows for unit in self.units], dtype=np.int64)

    def unit_at(self, rows: np.ndarray) -> np.ndarray:
        """int64: which unit each of these rows of the file belongs to."""
        return np.searchsorted(self.ends, rows, side="right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan files of an output, or of one shard of it and what was revised of that since."""

    files: tuple[PlanFile, ...] = ()

    @functools.cached_property
    def current(self) -> dict[str, Unit]:
        """name → the present revision of each unit; units that have lost all rows are among them.

        In the order in which they were planned.
        """
        found: dict[str, Unit] = {}
        for file in self.files:
            for unit in filter(_is_ours, file.units):
                known = found.setdefault(unit.name, unit)
                if unit.revision > known.revision:
                    found[unit.name] = unit
        return found

    @property
    def units(self) -> list[Unit]:
        """The present units that have rows."""
        return [unit for unit in self.current.values() if unit.rows]

    def and_files(self, files: Iterable[PlanFile]) -> Plan:
        return Plan(files=(*self.files, *files))

    def superseded(self, file: PlanFile) -> np.ndarray:
        """bool [units]: which units of a file have a later revision elsewhere."""
        return np.array([self.current.get(unit.name) != unit for unit in file.units], bool)


def _is_ours(unit: Unit) -> bool:
    return bool(unit.name)


def read_plan(folder: str, shard: tuple[int, int] = WHOLE) -> Plan:
    """The plan in a folder. Raises PlanError: a file is damaged."""
    _open_plan.cache_clear()  # another output may have been here
    with ThreadPoolExecutor(_READERS) as pool:
        files = list(pool.map(lambda one: _read_known(*one), _plan_files_and_indexes(folder)))
    if shard != WHOLE:
        start = store.join(folder, "plan-" + shard_tag(shard))
        own = {file.location for file in files if file.location.startswith(start)}
        names = {unit.name for file in files if file.location in own for unit in file.units}
        files = [file for file in files if any(unit.name in names for unit in file.units)]
        files = [_only(file, names) if file.location not in own else file for file in files]
    return Plan(files=tuple(files))


def _only(file: PlanFile, names: set[str]) -> PlanFile:
    """The file with the units of a shard; those of others lose their names and are skipped."""
    units = [u if u.name in names else dataclasses.replace(u, name="") for u in file.units]
    return dataclasses.replace(file, units=tuple(units))


def read_plan_file(location: str) -> PlanFile:
    """The units of one plan file, from its footer. Raises PlanError."""
    with _damage_reported(location):
        # Not by `_open_plan`, which keeps what it has opened: there may be thousands of files.
        schema = _open_anew(location).schema_arrow
        entries = json.loads(schema.metadata[_UNITS_KEY])
    units = tuple(_units(location, entries))
    return PlanFile(location=location, units=units, schema=schema.remove_metadata())


def _plan_files_and_indexes(folder: str) -> list[tuple[Stored, bool]]:
    """Every plan file, and whether it has an index. While parts are merged: those that count."""
    merge = read_merge(folder, store.join(folder.rpartition("/")[0], PARTS))
    there = {found.uri.rpartition("/")[2]: found for found in store.list_folder(folder)}
    return [
        (found, plan_index.location_of(name) in there)
        for name, found in there.items()
        if name.startswith("plan-") and name.endswith(".parquet")
        if merge is None or merge.counts(name)
    ]


def _read_known(plan: Stored, indexed: bool) -> PlanFile:
    """A plan file by its index, where that is of the file as it is now; else by its footer."""
    head = plan_index.read_head(plan) if indexed else None
    if head is None:
        return read_plan_file(plan.uri)
    units = tuple(_units(plan.uri, head.units))
    return PlanFile(location=plan.uri, units=units, schema=head.schema, index=head)


def read_hashes(file: PlanFile, *, keep: bool) -> Hashes:
    """The hashes of the rows of a plan file; `keep`: an index that it lacks is written.

    Raises PlanError: it is damaged.
    """
    count = sum(unit.rows for unit in file.units)
    known = plan_index.read_hashes(file.index, count) if file.index else None
    if known is not None:
        return known
    with _damage_reported(file.location):
        names = [name for name in plan_index.COLUMNS if name in file.schema.names]
        rows = _open_anew(file.location).read(names)
    known = plan_index.hash_rows(rows)
    if keep and count >= plan_index.LEAST_ROWS:
        with contextlib.suppress(store.StorageError, OSError):
            plan = store.stat(file.location)
            entries = [_entry(unit) for unit in file.units]
            plan_index.write_index(plan, entries, file.schema, rows, known)
    return known


def read_rows(file: PlanFile, rows: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Some rows of a plan file; see `read_some_rows`."""
    return next(read_some_rows(file, [rows], schema))


def read_some_rows(
    file: PlanFile, some: Iterable[np.ndarray], schema: pa.Schema
) -> Iterator[pa.Table]:
    """Rows of a plan file, some at a time.

    Args:
      file: of the plan.
      some: int64: their numbers, ascending.
      schema: the columns that are read; those that the file lacks are null.

    Yields:
      a table with these columns, in the types of the file, and `imagecensus.row`.
    """
    with _damage_reported(file.location):
        parquet = _open_anew(file.location)
    names = [name for name in schema.names if name in file.schema.names]
    for rows in some:
        units = np.unique(file.unit_at(rows))
        with _damage_reported(file.location):
            found = parquet.read_row_groups([file.units[at].row_group for at in units], names)
        starts = file.ends[units] - [file.units[at].rows for at in units]
        read = [np.arange(start, end) for start, end in zip(starts, file.ends[units], strict=True)]
        found = found.filter(pa.array(np.isin(np.concatenate(read), rows, assume_unique=True)))
        columns = [
            found.column(field.name) if field.name in names else pa.nulls(len(rows), field.type)
            for field in schema
        ]
        yield pa.table([*columns, pa.array(rows)], [*schema.names, ROW_COLUMN])


def units_within(file: PlanFile, inputs: Iterable[str]) -> np.ndarray:
    """bool [units]: which units may have images of these inputs, or that lie in them."""
    found = np.ones(len(file.units), bool)
    asked = list(inputs)
    if file.index is not None:
        asked = [text for text in asked if file.index.summary.may_have(text)]
        if not asked:
            return ~found
    with _damage_reported(file.location):
        parquet = _open_anew(file.location)
        at = [file.schema.get_field_index(name) for name in ("uri", SOURCE_COLUMN)]
        for number, unit in enumerate(file.units):
            group = parquet.metadata.row_group(unit.row_group) if unit.rows else None
            found[number] = group is not None and _may_have(group, at, asked)
    return found


def _may_have(group: pq.RowGroupMetaData, columns: list[int], inputs: list[str]) -> bool:
    """Whether the statistics of uri and source allow for an image of one of the inputs."""
    uris, sources = (group.column(at).statistics if at >= 0 else None for at in columns)
    if uris is None or not uris.has_min_max:
        return True
    for text in inputs:
        if plan_index.may_begin(text, uris.min, uris.max):
            return True
        if sources is not None and sources.has_min_max and sources.min <= text <= sources.max:
            return True
    return False


def _units(location: str, entries: list[list[Any]]) -> Iterator[Unit]:
    row_group = 0
    for name, rows, *further in entries:
        revision, base, digest = further or (0, -1, "")
        yield Unit(
            name=name, plan=location, row_group=row_group, rows=rows, revision=revision,
            base=base, digest=digest,
        )  # fmt: skip
        row_group += rows > 0


def read_units(plan: str) -> list[Unit]:
    """The units of a plan file, which is kept open to read their references. Raises PlanError."""
    with _damage_reported(plan), _reading:
        entries = json.loads(_open_plan(plan).schema_arrow.metadata[_UNITS_KEY])
        return list(_units(plan, entries))


def read_unit(unit: Unit) -> pa.RecordBatch:
    """The references of one unit: `REF_SCHEMA`, then passthrough columns."""
    rows = read_planned(unit)
    return rows.drop_columns([name for name in PLAN_COLUMNS if name in rows.schema.names])


def read_planned(unit: Unit) -> pa.RecordBatch:
    """The rows of one unit as they are in the plan, `PLAN_COLUMNS` among their columns."""
    with _damage_reported(unit.plan), _reading:
        table = _open_plan(unit.plan).read_row_group(unit.row_group).combine_chunks()
        return table.to_batches()[0]


def sequential_place(unit: Unit) -> tuple[str, ...] | None:
    """The archive, or row group of one, that a unit begins in; None: it can be read in any order.

    An archive that the unit goes over into does not count.
    """
    with _damage_reported(unit.plan), _reading:
        parquet = _open_plan(unit.plan)
        group = parquet.metadata.row_group(unit.row_group)
        names = ["container", "member"]
        found = group.column(parquet.schema_arrow.get_field_index("member")).statistics
        if found is not None and found.null_count == group.num_rows:
            return None  # files of their own
        table = parquet.read_row_group(unit.row_group, columns=names)
    for container, member in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        if member is not None and is_sequential(member):
            kind, at, *_ = json.loads(member)
            return (container, str(at)) if kind == "parquet" else (container,)
    return None


def read_taken(unit: Unit) -> tuple[pa.RecordBatch, list[str | None]]:
    """The references of a unit, and for each the uri whose row the unit's base has, or None."""
    rows = read_planned(unit)
    if TAKEN_COLUMN not in rows.schema.names or unit.base < 0:
        return read_unit(unit), [None] * rows.num_rows
    return read_unit(unit), rows.column(TAKEN_COLUMN).to_pylist()


def find_references(folder: str, uris: list[str]) -> dict[str, dict[str, Any]]:
    """uri → the fields of `REF_SCHEMA`, of those images that are in the plan."""
    found: dict[str, dict[str, Any]] = {}
    plan, wanted = read_plan(folder), pa.array(uris, pa.string())
    for file in plan.files:
        later = plan.superseded(file)
        with _damage_reported(file.location), _reading:
            parquet = _open_plan(file.location)
            rows = np.flatnonzero(pc.is_in(parquet.read(["uri"]).column(0), wanted))
            groups = sorted(
                {file.units[at].row_group for at in file.unit_at(rows) if not later[at]}
            )
            for group in groups:
                table = parquet.read_row_group(group, columns=list(REF_COLUMNS))
                table = table.filter(pc.is_in(table.column("uri"), wanted))
                found |= {row["uri"]: row for row in table.to_pylist()}
    return found


class PlanWriter:
    """Gathers units into plan files of bounded size."""

    def __init__(
        self, folder: str, *, plan: Plan = Plan(), shard: tuple[int, int] = WHOLE,
        dry_run: bool = False, tag: str = "", before_writing: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Args:
        folder: of the plan.
        plan: what the units were chosen by: the files are numbered after its files.
        shard: (i, n): the files are those of shard i of n.
        dry_run: write nothing.
        tag: what the names of the files begin with, in place of the shard's.
        before_writing: called before each file; what it raises ends the writing.
        """
        self.files: list[PlanFile] = []
        self._folder, self._dry_run, self._before_writing = folder, dry_run, before_writing
        self._waiting: list[tuple[Unit, pa.RecordBatch]] = []
        self._prefix = "plan-" + (tag or shard_tag(shard))
        self._number = _next_number(plan, self._prefix)

    def add(self, unit: Unit, rows: pa.RecordBatch) -> None:
        """Adds a unit and its rows; where it is in the plan, is filled in here."""
        if self._waiting and not rows.schema.equals(self._waiting[0][1].schema):
            self.flush()
        self._waiting.append((unit, rows))
        full = sum(unit.rows for unit, _ in self._waiting) >= UNITS_PER_FILE * UNIT_ROWS
        if full or len(self._waiting) >= UNITS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Writes what waits.

        Raises StorageError, or ConflictError: another run has planned something meanwhile.
        """
        if not self._waiting:
            return
        entries = [_entry(unit) for unit, _ in self._waiting]
        schema = self._waiting[0][1].schema
        location = store.join(self._folder, f"{self._prefix}{self._number:05d}.parquet")
        self._number += 1
        if not self._dry_run:
            self._before_writing()
            self._write(location, entries, [rows for _, rows in self._waiting])
        units = tuple(_units(location, entries))
        self.files.append(PlanFile(location=location, units=units, schema=schema))
        self._waiting = []

    def _write(
        self, location: str, entries: list[list[Any]], batches: list[pa.RecordBatch]
    ) -> None:
        data = _as_parquet(entries, batches)
        try:
            # A launcher that hung in this request, and lost its lock meanwhile, comes too late.
            store.write(location, data, create_only=True)
        except store.ConflictError:  # perhaps our own write, whose answer was lost
            if store.read(location) != data:
                raise
        rows = pa.Table.from_batches(batches)
        if rows.num_rows >= plan_index.LEAST_ROWS:
            plan = store.stat(location)
            hashes = plan_index.hash_rows(rows)
            plan_index.write_index(plan, entries, rows.schema, rows, hashes)


def _next_number(plan: Plan, prefix: str) -> int:
    """The number after those of the files of a plan whose names begin so."""
    named = re.compile(rf"{re.escape(prefix)}(\d+)[-.]")  # a digest followed it until 0.1
    found = (named.match(file.location.rpartition("/")[2]) for file in plan.files)
    return max((int(match[1]) for match in found if match), default=-1) + 1


def _entry(unit: Unit) -> list[Any]:
    later = [unit.revision, unit.base, unit.digest] if unit.revision or unit.digest else []
    return [unit.name, unit.rows, *later]


def _as_parquet(entries: list[list[Any]], batches: list[pa.RecordBatch]) -> bytes:
    schema = batches[0].schema.with_metadata({_UNITS_KEY: json.dumps(entries).encode()})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for rows in batches:
            if rows.num_rows:
                writer.write_batch(rows.cast(schema), row_group_size=rows.num_rows)
        writer.add_key_value_metadata({checksum.KEY: checksum.EMPTY})
    return checksum.add_checksum(buffer.getvalue())


def unit_name(rows: pa.RecordBatch | pa.Table, fingerprint: str) -> str:
    """Digest of the references, or of the rows of their part, and of the fingerprint."""
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=12)
    for column in ("uri", "etag_or_mtime"):
        digest.update("".join(f"{value}\0" for value in rows.column(column).to_pylist()).encode())
    return digest.hexdigest()


def shard_tag(shard: tuple[int, int]) -> str:
    """What marks a shard's files: nothing for a run over everything, `s0of4-` for shard 0 of 4."""
    return "" if shard == WHOLE else f"s{shard[0]}of{shard[1]}-"


@contextlib.contextmanager
def _damage_reported(plan: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Arrow raises a dozen types for damaged files
        raise PlanError(
            f"{plan}: the plan is damaged: {first_line(error)}; restore it from a copy,"
            " or start a new --output"
        ) from None


# Two threads of a worker that read from one open file at once get "ReadRangeCache did not find
# matching cache entry" now and then.
_reading = threading.Lock()


@functools.lru_cache(maxsize=4)
def _open_plan(plan: str) -> pq.ParquetFile:
    return _open_anew(plan)


def _open_anew(plan: str) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(checksum.check(store.read(plan))))
