"""Packed archives as inputs: one reference per image inside, and nothing unpacked to disk.

What is an archive: a file whose name ends like one (`is_archive_name`) or that was itself named
as an input, and whose content is a tar, a zip, TFRecords or Parquet with a column of images; tar
and TFRecords also within gzip. Any other file is listed as a file.

What is listed of a tar or zip: what a folder's listing would list, and links, as failed rows.
Sidecars and videos right beside an image are left out (`ignored_names`); how many are is told in
the metadata of a last batch without rows, see `left_out_of`. Archives
in archives are listed as one failed row each. Where an archive is damaged, the members before the
damage are listed, and then the archive itself, as a failed row.

A member's uri is `ARCHIVE#NAME`; the second member of one name is `ARCHIVE#NAME~2`. Records and
rows are named by their number from 0. A name is a label only: no path is ever made of it.
"""

from __future__ import annotations

import collections
import gzip
import hashlib
import itertools
import json
import re
import tarfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa

from imagecensus.model_export.common.ignored_names import ignored_kind, without_sidecars
from imagecensus.transforms.archives import (
    page_archive,
    parquet_archive,
    tar_archive,
    tfrecord_archive,
    zip_archive,
)
from imagecensus.transforms.archives.members import (
    PAGES,
    ArchiveBroken,
    Member,
    Stream,
    failed,
    is_archive_name,
)
from imagecensus.transforms.inputs.files import CHUNK
from imagecensus.transforms.records import REF_FIELDS, REF_SCHEMA
from imagecensus.transforms.storage import byte_ranges

_TABLE_NAME = re.compile(r"\.(parquet|tfrecords?[^/]*)$", re.IGNORECASE)
MAX_MEMBERS = 10_000_000
_LEFT_OUT = b"imagecensus.left_out"
_NO_COLUMNS = pa.schema([])


def has_columns(text: str) -> bool:
    """Whether an input's name says that it is Parquet or TFRecords, whose columns go along."""
    return bool(_TABLE_NAME.search(text))


def is_table_of_images(location: str, size: int, etag: str, image_column: str) -> bool:
    """Whether a file is Parquet with a column of images."""
    try:
        with byte_ranges.open_stream(location, size, etag) as file:
            schema = parquet_archive.open_parquet(file).schema_arrow
            return parquet_archive.image_column(schema, image_column) is not None
    except (ArchiveBroken, OSError):
        return False


def archive_kind(location: str, size: int, etag: str, image_column: str = "") -> str | None:
    """Which kind of archive a file is, by its content; None: it is none, or cannot be read."""
    try:
        with byte_ranges.open_stream(location, size, etag) as file:
            kind = _kind(file)
            if kind == "gzip":
                file.seek(0)
                inner = _kind(gzip.GzipFile(fileobj=file))
                kind = f"{inner}.gz" if inner in ("tar", "tfrecord") else None
            elif kind is None and is_archive_name(location) and zipfile.is_zipfile(file):
                kind = "zip"  # self-extracting: a program comes first
            elif kind == "parquet" and not _may_hold_images(file, image_column):
                kind = None
            elif kind is None and page_archive.may_have_pages(location):
                kind = PAGES if page_archive.count_pages(file) > 1 else None
            return kind
    except (OSError, EOFError, zlib.error):
        return None


def _may_hold_images(file: Stream, image_column: str) -> bool:
    try:
        schema = parquet_archive.open_parquet(file).schema_arrow
    except ArchiveBroken:
        return True  # its listing will say how it is damaged
    return bool(image_column or parquet_archive.image_column(schema))


def _kind(file: Stream) -> str | None:
    head = file.read(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if tfrecord_archive.is_tfrecord(head):
        return "tfrecord"
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in typeshed
        return "tar"  # nothing but the end mark
    except tarfile.HeaderError:
        return None
    return "tar"


def column_schema(location: str, size: int, etag: str, image_column: str = "") -> pa.Schema:
    """The columns of a Parquet file or TFRecords that go along with the images."""
    kind = archive_kind(location, size, etag)
    try:
        with byte_ranges.open_stream(location, size, etag) as file:
            if kind == "parquet":
                parquet = parquet_archive.open_parquet(file)
                return parquet_archive.column_schema(parquet.schema_arrow)
            if kind in ("tfrecord", "tfrecord.gz"):
                stream = gzip.GzipFile(fileobj=file) if kind.endswith(".gz") else file
                return tfrecord_archive.column_schema(stream, image_column)
    except (ArchiveBroken, OSError):
        pass  # its rows will say so
    return _NO_COLUMNS


def list_archive(
    location: str,
    size: int,
    etag: str,
    kind: str,
    image_column: str = "",
    columns: pa.Schema = _NO_COLUMNS,
    max_members: int = MAX_MEMBERS,
) -> Iterator[pa.RecordBatch]:
    """The references of an archive's members.

    Args:
      location, size, etag: of the archive, as listed.
      kind: from `archive_kind`.
      image_column: the Parquet column or feature of the images; empty: the usual names.
      columns: from `column_schema`; they go along with the images.
      max_members: listed of it; then comes one failed row, for the archive itself.

    Yields:
      batches of `REF_SCHEMA`, then `columns`; where something was left out, a last one without
      rows, see `left_out_of`.
    """
    left_out: collections.Counter[str] = collections.Counter()
    try:
        with byte_ranges.open_stream(location, size, etag) as file:
            if kind == PAGES:
                chunks = _chunks(page_archive.list_pages(file))
            elif kind == "parquet":
                parquet = parquet_archive.open_parquet(file)
                chunks = parquet_archive.list_members(parquet, image_column, columns)
            elif kind.startswith("tfrecord"):
                stream, length = _stream(file, size, kind)
                chunks = tfrecord_archive.list_members(stream, length, kind, image_column, columns)
            else:
                chunks = _chunks(_list_files(file, size, kind, left_out))
            listed = 0
            for members, values in chunks:
                listed += len(members)
                batch = _references(location, etag, members, values)
                if listed > max_members:
                    yield batch.slice(0, batch.num_rows - (listed - max_members))
                    text = f"more than {max_members:,} members (raise it with --max-members)"
                    raise ArchiveBroken("too_large", text)
                yield batch
    except (ArchiveBroken, OSError) as error:
        yield broken_archive(location, etag, error)
    if left_out:
        counted = REF_SCHEMA.with_metadata({_LEFT_OUT: json.dumps(left_out)})
        yield pa.RecordBatch.from_pylist([], schema=counted)


def left_out_of(batch: pa.RecordBatch) -> dict[str, int]:
    """What a batch of `list_archive` says was left out of the archive, by kind."""
    found: dict[str, int] = json.loads((batch.schema.metadata or {}).get(_LEFT_OUT, "{}"))
    return found


def broken_archive(location: str, etag: str, error: ArchiveBroken | OSError) -> pa.RecordBatch:
    """The reference of the archive itself, whose row will say what is wrong with it."""
    return _references(location, etag, [_broken(error)], None)


def _stream(file: BinaryIO, size: int, kind: str) -> tuple[Stream, int | None]:
    """The stream that a tar or TFRecord kind is listed from, and its length where it is known."""
    return (gzip.GzipFile(fileobj=file), None) if kind.endswith(".gz") else (file, size)


def _list_files(
    file: BinaryIO, size: int, kind: str, left_out: collections.Counter[str]
) -> Iterator[Member]:
    """The members of a tar or zip that are listed, each under a name of its own."""
    if kind == "zip":
        members = zip_archive.list_members(file)
    else:
        stream, length = _stream(file, size, kind)
        members = tar_archive.list_members(stream, length, kind)
    members = (m._replace(name=_label(m.name)) for m in _until_broken(members))
    members = _without_ignored(members, left_out)
    used: set[int] = set()
    for member in without_sidecars(members, lambda member: member.name, left_out):
        if is_archive_name(member.name) and member.where[0] != "failed":
            text = "an archive in an archive is not opened; unpack the outer one"
            member = failed(member.name, "unsupported_format", text, member.size)
        yield member._replace(name=_unused(member.name, used))


def _until_broken(members: Iterator[Member]) -> Iterator[Member]:
    """The members, then the archive itself where its listing breaks off."""
    try:
        yield from members
    except (ArchiveBroken, OSError) as error:
        yield _broken(error)


def _broken(error: ArchiveBroken | OSError) -> Member:
    """The archive itself, as a member without a name."""
    return failed("", getattr(error, "status", "read_error"), str(error))


def _label(name: str) -> str:
    """A member's name as a uri tells it; percent-encoded where it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = urllib.parse.quote(name.encode("utf-8", "surrogateescape"))
    return name.removeprefix("./")


def _without_ignored(
    members: Iterable[Member], left_out: collections.Counter[str]
) -> Iterator[Member]:
    for member in members:
        parts = (part for part in member.name.split("/") if part not in (".", ".."))
        kind = next(filter(None, map(ignored_kind, parts)), "")
        if kind:
            left_out[kind] += 1
        else:
            yield member


def _unused(name: str, used: set[int]) -> str:
    """The name, or name~2, name~3… for those that come again. Digests keep `used` small."""
    for number in itertools.count(1):
        candidate = name if number == 1 else f"{name}~{number}"
        digest = hashlib.blake2b(candidate.encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "little")
        if key not in used:
            used.add(key)
            return candidate
    raise AssertionError


def _chunks(members: Iterator[Member]) -> Iterator[tuple[list[Member], None]]:
    while chunk := list(itertools.islice(members, CHUNK)):
        yield chunk, None


def _uri(location: str, name: str) -> str:
    return f"{location}#{name}" if name else location


def _references(
    location: str, etag: str, members: list[Member], values: pa.RecordBatch | None
) -> pa.RecordBatch:
    rows = len(members)
    arrays = [
        pa.array([_uri(location, member.name) for member in members], pa.string()),
        pa.array([member.size for member in members], pa.int64()),
        pa.array([etag] * rows, pa.string()),
        pa.array([location] * rows, pa.string()),
        pa.array([json.dumps(member.where) for member in members], pa.string()),
    ]
    passed = []
    if values is not None:
        arrays += values.columns
        passed = list(values.schema)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*REF_FIELDS, *passed]))
