"""The table as a Delta table beside it, `OUT/delta`: a version for each run, snapshots for readers.

Its files are the parts under names of their own: links on disk, copies made by the store itself
elsewhere. Parts that a run replaces leave the folder of parts at once; here they stay for the
readers of former versions, until `delta.deletedFileRetentionDuration` (a week) has passed.

Nothing is kept of what was committed but the log itself: a commit is the difference between the
files of its last version and the parts that are there. So a run that was killed before its commit
is made up for by the next one, and what others did to the table is put right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.common.errors import UserError, first_line
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.dataset.parts import PartFile, list_part_files
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.byte_ranges import open_stream

if TYPE_CHECKING:  # an extra
    from deltalake import DeltaTable

_LOG = "_delta_log"
_LAST = "_last_checkpoint"
_OF_VERSION = re.compile(r"(\d{20})\..*(json|parquet)")
_THREADS = 32
_FOOTER = 64 << 10  # most footers are smaller: one request
# A log of that many commits, or one of so many files, gets a checkpoint, which readers start from.
_COMMITS, _FILES = 10, 10_000
_LONGEST = 400  # letters of the uris that bound a file's rows: longer ones are left out
_ZONELESS, _ZONELESS_FEATURE = '"timestamp_ntz"', "timestampNtz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Committed:
    """What a commit came to: the version that the table has now, files added and removed."""

    version: int
    added: int
    removed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """A file of the table, as its footer describes it."""

    path: str
    size: int
    rows: int
    schema: pa.Schema
    uris: tuple[str, str] | None  # the least and the greatest


def location(layout: Layout) -> str:
    """Where the Delta table of an output is."""
    return store.join(layout.output, "delta")


def exists(layout: Layout) -> bool:
    """Whether an output has a Delta table. Raises StorageError."""
    return bool(store.list_names(store.join(location(layout), _LOG)))


def check_library() -> None:
    """Raises UserError where the library is missing that reads and writes Delta's log."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        raise UserError(
            "the output has, or shall get, a Delta table, which needs the package deltalake: pip"
            " install 'imagecensus[delta]', or remove its folder `delta` to go on without one"
        ) from None


def commit(
    layout: Layout,
    damaged: Iterable[str],
    about: dict[str, Any],
    before_writing: Callable[[], object],
) -> Committed | None:
    """Makes the parts that are there the last version of the table, unless they are that already.

    Args:
      layout: of a run over everything, which holds the lock.
      damaged: locations of parts that do not count.
      about: what the commit says of the run, as JSON values.
      before_writing: raises where another run has taken the output over.

    Returns:
      None: there is no part yet, and no table.

    Raises:
      StorageError: it cannot be written, or somebody else has committed meanwhile.
      UserError: its log is damaged.
    """
    folder = location(layout)
    log = store.join(folder, _LOG)
    for place in (folder, log):
        store.make_folders(place)
        store.remove_temporary(place)
    bad = set(damaged)
    parts = {part.unit: part for part in list_part_files(layout.parts) if part.location not in bad}
    wanted = {_name_in_table(part): part for part in parts.values()}
    with _copy_of_log(log) as scratch:
        table = _open(scratch, folder)
        there = _files_of(table) if table else {}
        lying = {found.uri.rpartition("/")[2] for found in store.list_folder(folder)}
        new = sorted(wanted.keys() - there.keys())
        gone = {path: size for path, size in there.items() if path not in wanted}
        if new or gone:
            with ThreadPoolExecutor(_THREADS) as pool:
                files = list(pool.map(lambda name: _take(folder, name, wanted[name], lying), new))
            fault_injection.reached("delta.linked")
            name = _write_commit(scratch, table, files, gone, about)
            before_writing()
            store.write(store.join(log, name), _read(scratch, name), create_only=True)
            fault_injection.reached("delta.committed")
            table = _open(scratch, folder)
        if table is None:
            return None
        expired = lying.intersection(table.vacuum(dry_run=True))  # before a checkpoint forgets them
        for path in expired - wanted.keys():
            store.delete(store.join(folder, path))
        if new or gone:
            _checkpoint(scratch, table, log, len(new) + len(gone))
        return Committed(version=table.version(), added=len(new), removed=len(gone))


def _name_in_table(part: PartFile) -> str:
    """The name of a part there: another one for another version, as files there never change."""
    tag = hashlib.blake2s(f"{part.size} {part.version}".encode(), digest_size=4).hexdigest()
    return f"{part.location.rpartition('/')[2].removesuffix('.parquet')}-{tag}.parquet"


@contextlib.contextmanager
def _copy_of_log(log: str) -> Iterator[str]:
    """A table of this machine with what a reader of the last version needs of a log."""
    names = store.list_names(log)
    first = 0
    with contextlib.suppress(OSError, ValueError, KeyError):  # all of the log does as well
        first = int(json.loads(store.read(store.join(log, _LAST)))["version"])
    needed = [n for n in names if (match := _OF_VERSION.match(n)) and int(match[1]) >= first]
    if first:
        needed.append(_LAST)
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as scratch:
        os.mkdir(os.path.join(scratch, _LOG))
        for name in needed:
            with open(os.path.join(scratch, _LOG, name), "wb") as file:
                file.write(store.read(store.join(log, name)))
        yield scratch


def _open(scratch: str, folder: str) -> DeltaTable | None:
    """The table of a log; None: it has none yet. Raises UserError."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    if not os.listdir(os.path.join(scratch, _LOG)):
        return None
    try:
        return DeltaTable(scratch)
    except DeltaError as error:
        raise UserError(
            f"{folder}: its log cannot be read ({first_line(error)}); remove this folder"
            " and run classify again with --table delta: it is made of the parts anew"
        ) from None


def _files_of(table: DeltaTable) -> dict[str, int]:
    """Path → size of the files of the last version."""
    actions = pa.table(table.get_add_actions())
    columns = (actions.column(name).to_pylist() for name in ("path", "size_bytes"))
    return dict(zip(*columns, strict=True))


def _take(folder: str, name: str, part: PartFile, lying: set[str]) -> _File:
    """Puts a part into the folder of the table, unless it lies there, and looks at its footer."""
    target = store.join(folder, name)
    if name not in lying:
        store.copy(part.location, target)
    with open_stream(target, part.size, block=_FOOTER) as stream:
        footer = pq.read_metadata(stream)
    groups = [footer.row_group(at) for at in range(footer.num_row_groups)]
    at = footer.schema.names.index("uri")
    found = [group.column(at).statistics for group in groups]
    bounds = None
    if found and all(one is not None and one.has_min_max for one in found):
        bounds = (min(one.min for one in found), max(one.max for one in found))
    return _File(
        path=name, size=part.size, rows=footer.num_rows, schema=footer.schema.to_arrow_schema(),
        uris=bounds,
    )  # fmt: skip


def _write_commit(
    scratch: str,
    table: DeltaTable | None,
    files: list[_File],
    gone: dict[str, int],
    about: dict[str, Any],
) -> str:
    """Writes the next version into the copy of the log; returns the name of its file."""
    from deltalake import Schema, transaction

    schema = pa.schema(table.schema()) if table else pa.schema([])
    wanted = Schema.from_arrow(delta_schema([schema, *(file.schema for file in files)]))
    now = time.time_ns() // 1_000_000
    added: list[Any] = [_add_action(file, now) for file in files]
    removed = [transaction.RemoveAction(path, True, now, size) for path, size in gone.items()]
    properties = transaction.CommitProperties(about)
    if table is None:
        transaction.create_table_with_add_actions(
            scratch, wanted, added, commit_properties=properties
        )
        return _name_of(0)
    name = _name_of(table.version() + 1)
    table.create_write_transaction(
        [*added, *removed], "append", table.schema(), commit_properties=properties,
        post_commithook_properties=transaction.PostCommitHookProperties(False, False),
    )  # fmt: skip
    if wanted != table.schema():
        path = os.path.join(scratch, _LOG, name)
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in _with_schema(table, wanted))
    return name


def _add_action(file: _File, now: int) -> Any:
    from deltalake.transaction import AddAction

    stats: dict[str, Any] = {"numRecords": file.rows}
    if file.uris and max(map(len, file.uris)) <= _LONGEST:
        stats |= {"minValues": {"uri": file.uris[0]}, "maxValues": {"uri": file.uris[1]}}
    return AddAction(file.path, file.size, {}, now, True, json.dumps(stats))


def delta_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of several schemas together, later types first, as Delta has them.

    A column of a type that Delta lacks, as a time of the day, is left out.
    """
    types = {field.name: _delta_type(field.type) for schema in schemas for field in schema}
    return pa.schema([(name, kind) for name, kind in types.items() if kind is not None])


def _delta_type(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_dictionary(kind):
        return _delta_type(kind.value_type)
    if pa.types.is_time(kind):
        return None
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        inner = _delta_type(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(kind):
        inside = [(field.name, _delta_type(field.type)) for field in kind]
        return None if any(one is None for _, one in inside) else pa.struct(inside)
    return kind


def _with_schema(table: DeltaTable, schema: Any) -> Iterator[dict[str, Any]]:
    """The actions of a commit that give a table another schema."""
    old = table.metadata()
    yield {
        "metaData": {
            "id": old.id, "name": old.name, "description": old.description,
            "format": {"provider": "parquet", "options": {}}, "schemaString": schema.to_json(),
            "partitionColumns": old.partition_columns, "createdTime": old.created_time,
            "configuration": old.configuration,
        }
    }  # fmt: skip
    protocol = table.protocol()
    readers, writers = (
        set(features or ()) for features in (protocol.reader_features, protocol.writer_features)
    )
    if _ZONELESS in schema.to_json() and _ZONELESS_FEATURE not in readers:
        writers |= {"appendOnly", "invariants", _ZONELESS_FEATURE}  # of version 2, and the new one
        yield {
            "protocol": {
                "minReaderVersion": 3, "readerFeatures": sorted(readers | {_ZONELESS_FEATURE}),
                "minWriterVersion": 7, "writerFeatures": sorted(writers),
            }
        }  # fmt: skip


def _checkpoint(scratch: str, table: DeltaTable, log: str, files: int) -> None:
    """Writes what readers start from, now and then, in place of the whole log."""
    version = table.version()
    if files < _FILES and (version % _COMMITS or not version):
        return
    table.create_checkpoint()
    start = f"{version:020d}.checkpoint"
    names = [n for n in os.listdir(os.path.join(scratch, _LOG)) if n.startswith(start)]
    for name in [*sorted(names), _LAST]:
        store.write(store.join(log, name), _read(scratch, name))


def _name_of(version: int) -> str:
    return f"{version:020d}.json"


def _read(scratch: str, name: str) -> bytes:
    with open(os.path.join(scratch, _LOG, name), "rb") as file:
        return file.read()
