"""Inventories of buckets: what a listing would say, without a request for it or for an image.

S3 Inventory and Storage Insights (of Google Cloud Storage) write a manifest that names their files.
A table is an inventory by its columns: where to find an object, and others that inventories have,
none else. (A list that says more of its images is a list, see `manifests`.) BigQuery's object
tables have such columns, too.

An inventory names objects as a listing does, in the order of a listing, so the same rules leave out
what is no image. Former versions and delete markers are left out and counted.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from imagecensus.model_export.common.errors import first_line
from imagecensus.transforms.dataset.sorted_rows import SortedRows
from imagecensus.transforms.inputs import pipes
from imagecensus.transforms.inputs.check import is_glob
from imagecensus.transforms.inputs.column_types import as_type
from imagecensus.transforms.inputs.delimited import Header, read_header
from imagecensus.transforms.inputs.files import CHUNK, File, InputError, chosen_objects
from imagecensus.transforms.inputs.read_list import kind_of
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.inputs.text_lines import open_lines, open_unpacked
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.byte_ranges import open_stream, read_range

_HEAD = 1 << 20  # of a manifest: its marks are before its list of files
_S3_MARK, _GOOGLE_MARK = "fileSchema", "report_shards_file_names"
_S3 = """bucket key versionid islatest isdeletemarker size lastmodifieddate lastmodified etag
    storageclass ismultipartuploaded ismultipart replicationstatus encryptionstatus
    objectlockretainuntildate objectlockmode objectlocklegalholdstatus intelligenttieringaccesstier
    bucketkeystatus isbucketkeyenabled checksumalgorithm objectaccesscontrollist objectowner
    lifecycleexpirationdate sequencenumber kmskeyarn objecttags usermetadata"""
_GOOGLE = """project bucket name location size timecreated timedeleted softdeletetime harddeletetime
    updated storageclass etag retentionexpirationtime retention crc32c md5hash generation
    metageneration contenttype contentencoding contentlanguage contentdisposition cachecontrol
    timestorageclassupdated customtime componentcount eventbasedhold temporaryhold kmskeyname
    medialink selflink metadata id kind"""
_OBJECT_TABLE = "uri generation contenttype size md5hash updated metadata ref data"
# Columns that there must be → all that there may be, in lower case and without underscores.
_TABLES = (
    ({"bucket", "key"}, set(_S3.split())),
    ({"bucket", "name"}, set(_GOOGLE.split())),
    ({"uri", "generation", "size", "updated"}, set(_OBJECT_TABLE.split())),
)
_READ = {
    "bucket", "key", "name", "uri", "size", "etag", "generation", "islatest", "isdeletemarker",
    "timedeleted", "softdeletetime",
}  # fmt: skip
_OBJECTS = pa.schema([("uri", pa.string()), ("size", pa.int64()), ("version", pa.string())])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inventory:
    """The files of an inventory.

    Attributes:
      files: their locations.
      kind: csv, parquet or orc.
      names: of the columns of CSV whose first line does not say them.
      encoded: names of objects are percent-encoded.
    """

    files: tuple[str, ...]
    kind: str
    names: tuple[str, ...] = ()
    encoded: bool = False


def is_inventory(text: str) -> bool:
    """Whether an input is an inventory: a manifest of one by its marks, a table by its columns."""
    if pipes.is_pipe(text) or store.is_web(text) or (is_glob(text) and not os.path.lexists(text)):
        return False
    kind = kind_of(text)
    try:
        if kind == "json":
            return _manifest(text) is not None
        if kind in ("delimited", "parquet"):
            return _is_table(_columns(text, kind, store.stat(text).version))
    except (OSError, InputError, pa.ArrowException):  # reading it as a list will say so
        return False
    return False


def list_inventory(text: str, selection: Selection) -> Iterator[File]:
    """The objects of an inventory that are listed, in order of uri, with sizes and versions.

    Raises:
      InputError: it cannot be read; a file of it is missing or damaged.
    """
    inventory = _inventory_of(text)
    with SortedRows("uri") as rows:
        for file in inventory.files:
            for batch in _read(file, inventory):
                rows.add(_present(batch, inventory.encoded, selection))
        if not rows.schema.names:
            return
        objects = (
            found
            for batch in rows.batches(CHUNK)
            for found in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        for root, some in itertools.groupby(objects, lambda found: store.split(found[0])[0]):
            yield from chosen_objects(some, root, selection)


def _manifest(text: str) -> dict[str, Any] | None:
    """What a manifest says; None: it is none of an inventory."""
    return _manifest_of(text, store.stat(text).version)


@functools.lru_cache(maxsize=16)
def _manifest_of(text: str, version: str) -> dict[str, Any] | None:
    head = read_range(text, 0, _HEAD)
    if f'"{_S3_MARK}"'.encode() not in head and f'"{_GOOGLE_MARK}"'.encode() not in head:
        return None
    try:
        said = json.loads(head if len(head) < _HEAD else store.read(text))
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    google = isinstance(said.get(_GOOGLE_MARK), list)
    return said if google or (_S3_MARK in said and isinstance(said.get("files"), list)) else None


def _inventory_of(text: str) -> _Inventory:
    kind = kind_of(text)
    said = _manifest(text) if kind == "json" else None
    if said is None:
        return _Inventory(files=(text,), kind="parquet" if kind == "parquet" else "csv")
    folder = text.rpartition("/")[0] if store.is_remote(text) else os.path.dirname(text)
    if _GOOGLE_MARK in said:
        files = tuple(store.join(folder, str(name)) for name in said[_GOOGLE_MARK])
        kind = "parquet" if files and files[0].lower().endswith(".parquet") else "csv"
        return _Inventory(files=files, kind=kind, names=_google_names(said.get("report_config")))
    kind = str(said.get("fileFormat", "CSV")).lower()
    if kind not in ("csv", "parquet", "orc"):
        raise InputError(f"{text}: an inventory in {kind}, which is not read; ask for CSV")
    bucket = str(said.get("destinationBucket", "")).rpartition(":")[2]
    return _Inventory(
        files=tuple(_s3_file(folder, bucket, str(entry["key"])) for entry in said["files"]),
        kind=kind,
        names=tuple(str(said[_S3_MARK]).replace(" ", "").split(",")) if kind == "csv" else (),
        encoded=kind == "csv",
    )


def _s3_file(folder: str, bucket: str, key: str) -> str:
    """A file of an inventory: in its bucket, or where a copy of all was put on this machine."""
    if not store.is_remote(folder):
        base = key.rpartition("/")[2]
        for near in (os.path.join(folder, base), os.path.join(folder, "..", "data", base)):
            if os.path.exists(near):
                return near
    return f"s3://{bucket}/{key}"


def _google_names(config: object) -> tuple[str, ...]:
    """The fields that a report was asked for, in their order."""
    if not isinstance(config, dict):
        return ()
    for name, value in config.items():
        if _folded(name) == "metadatafields" and isinstance(value, list):
            return tuple(map(str, value))
        inner = _google_names(value)
        if inner:
            return inner
    return ()


@functools.lru_cache(maxsize=64)
def _columns(text: str, kind: str, version: str) -> tuple[str, ...]:
    if kind == "parquet":
        return tuple(_parquet_schema(text).names)
    with store.local_copy(text) as path:
        return tuple(_header(path, text).names)


def _parquet_schema(text: str) -> pa.Schema:
    with open_stream(text, store.stat(text).size) as stream:
        return pq.read_schema(stream)


def _header(path: str, name: str) -> Header:
    with open_lines(path, name) as lines:
        found = read_header(enumerate(lines, start=1), _READ)
    if found is None:
        raise InputError(f"{name}: is empty")
    return found


def _is_table(names: tuple[str, ...]) -> bool:
    folded = set(map(_folded, names))
    return any(needed <= folded <= known for needed, known in _TABLES)


def _folded(name: str) -> str:
    return name.strip().casefold().replace("_", "")


# Files of an inventory


def _read(file: str, inventory: _Inventory) -> Iterator[pa.RecordBatch]:
    """The columns of `_READ` that a file has, under these names."""
    readers = {"csv": _read_csv, "parquet": _read_parquet, "orc": _read_orc}
    try:
        with store.local_copy(file) as path:
            for batch in readers[inventory.kind](path, file, inventory):
                yield batch.rename_columns([_folded(name) for name in batch.schema.names])
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{file}: a file of an inventory that cannot be read: {reason}; copy it again"
        ) from None


def _read_csv(path: str, file: str, inventory: _Inventory) -> Iterator[pa.RecordBatch]:
    header = _header(path, file)
    names, delimiter, above = header.names, header.delimiter, header.line
    if not _is_table(tuple(names)):
        names, delimiter, above = list(inventory.names), header.delimiter, header.line - 1
    if not _is_table(tuple(names)) and not {"key", "name"} & set(map(_folded, names)):
        raise InputError(f"{file}: its first line names no columns; ask for a report with a header")
    wanted = [name for name in names if _folded(name) in _READ]
    with open_unpacked(path, file) as raw:
        yield from pa_csv.open_csv(
            raw,
            pa_csv.ReadOptions(use_threads=False, column_names=names, skip_rows=above),
            pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pa_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted
            ),
        )


def _read_parquet(path: str, file: str, _: _Inventory) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        yield from parquet.iter_batches(
            CHUNK, columns=[n for n in parquet.schema_arrow.names if _folded(n) in _READ]
        )


def _read_orc(path: str, file: str, _: _Inventory) -> Iterator[pa.RecordBatch]:
    from pyarrow import orc

    table = orc.ORCFile(path)
    wanted = [name for name in table.schema.names if _folded(name) in _READ]
    for stripe in range(table.nstripes):
        yield table.read_stripe(stripe, wanted)


def _present(batch: pa.RecordBatch, encoded: bool, selection: Selection) -> pa.Table:
    """The objects of a batch that are there, as `_OBJECTS`; the others are counted."""

    def text(name: str) -> pa.Array:
        if name not in batch.schema.names:
            return pa.array([""] * batch.num_rows, pa.string())
        return as_type(batch.column(name), pa.string()).fill_null("")

    marker = pc.equal(pc.utf8_lower(text("isdeletemarker")), "true")
    former = pc.equal(pc.utf8_lower(text("islatest")), "false")
    for name in ("timedeleted", "softdeletetime"):
        former = pc.or_(former, pc.not_equal(text(name), ""))
    former = pc.and_not(former, marker)
    selection.left_out["markers"] += pc.sum(marker).as_py() or 0
    selection.left_out["versions"] += pc.sum(former).as_py() or 0
    version = text("generation")
    if "name" not in batch.schema.names and "uri" not in batch.schema.names:  # of S3, then
        version = pc.utf8_trim(text("etag"), '"')
    known = pc.and_(pc.not_equal(version, ""), pc.match_substring_regex(text("size"), r"^\d+$"))
    size = pc.if_else(known, text("size"), "-1").cast(pa.int64())
    found = pa.Table.from_arrays([_uris(text, batch, encoded), size, version], schema=_OBJECTS)
    return found.filter(pc.invert(pc.or_(marker, former)))


def _uris(text: Callable[[str], pa.Array], batch: pa.RecordBatch, encoded: bool) -> pa.Array:
    if "uri" in batch.schema.names:
        return text("uri")
    scheme, names = ("gs", text("name")) if "name" in batch.schema.names else ("s3", text("key"))
    if encoded:
        plain = (urllib.parse.unquote_plus(name, errors="replace") for name in names.to_pylist())
        names = pa.array(plain, pa.string())
    return pc.binary_join_element_wise(f"{scheme}:/", text("bucket"), names, "/")
