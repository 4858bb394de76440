"""Packed archives, looked into by a decoder process: one that kills its reader is a failed row.

The functions are those of `archives`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pyarrow as pa

from imagecensus.transforms.archives import listing
from imagecensus.transforms.archives.members import ArchiveBroken
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.questions import packed
from imagecensus.transforms.decoders.requests import ReaderDied
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.read_images import read_image

_NO_COLUMNS = pa.schema([])
_DIED = "died"  # a kind, for `list_archive`
_numbers = itertools.count()  # of listings


def archive_kind(location: str, size: int, etag: str, image_column: str = "") -> str | None:
    """See `listing.archive_kind`."""
    with lease() as pool:
        try:
            answer = pool.ask("archive_kind", location, size, etag, image_column, pin=location)
        except ReaderDied:
            return _DIED
    kind: str | None = json.loads(answer)
    return kind


def is_table_of_images(location: str, size: int, etag: str, image_column: str) -> bool:
    """See `listing.is_table_of_images`."""
    question = (location, size, etag, image_column)
    with lease() as pool:
        try:
            return bool(json.loads(pool.ask("is_table_of_images", *question, pin=location)))
        except ReaderDied:
            return True  # its listing will say so


def column_schema(location: str, size: int, etag: str, image_column: str = "") -> pa.Schema:
    """See `listing.column_schema`."""
    with lease() as pool:
        try:
            answer = pool.ask("column_schema", location, size, etag, image_column, pin=location)
        except ReaderDied:
            return _NO_COLUMNS
    return pa.ipc.open_stream(answer).schema


def list_archive(
    location: str,
    size: int,
    etag: str,
    kind: str,
    image_column: str = "",
    columns: pa.Schema = _NO_COLUMNS,
    max_members: int = listing.MAX_MEMBERS,
) -> Iterator[pa.RecordBatch]:
    """See `listing.list_archive`. Where its reader dies, the archive itself is the last row."""
    question = (location, size, etag, kind, image_column, packed(columns).hex(), max_members)
    number = next(_numbers)
    try:
        if kind == _DIED:
            raise ReaderDied("looking into it ends the process that does")
        with lease() as pool:
            for told in itertools.count():
                answer = pool.ask("list_archive", number, told, question, pin=location)
                if not answer:
                    return
                yield from pa.ipc.open_stream(answer)
    except ReaderDied as death:
        yield listing.broken_archive(location, etag, ArchiveBroken("read_error", str(death)))


def read_reference(ref: ImageRef, max_bytes: int) -> bytes:
    """The bytes of an image. Raises ImageError, also where the reader of its archive dies."""
    if ref.container is None:
        return read_image(ref.uri, ref.size, ref.etag, max_bytes)
    with lease() as pool:
        return pool.read(ref, max_bytes)
