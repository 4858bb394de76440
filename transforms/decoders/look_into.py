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
    answer = _ask("archive_kind", location, size, etag, image_column)
    kind: str | None = _DIED if answer is None else json.loads(answer)
    return kind


def is_table_of_images(location: str, size: int, etag: str, image_column: str) -> bool:
    """See `listing.is_table_of_images`. Where its reader dies, its listing will say so."""
    answer = _ask("is_table_of_images", location, size, etag, image_column)
    return answer is None or bool(json.loads(answer))


def column_schema(location: str, size: int, etag: str, image_column: str = "") -> pa.Schema:
    """See `listing.column_schema`."""
    answer = _ask("column_schema", location, size, etag, image_column)
    return _NO_COLUMNS if answer is None else pa.ipc.open_stream(answer).schema


def _ask(call: str, location: str, size: int, etag: str, image_column: str) -> bytes | None:
    """A decoder process's answer about an archive; None: looking into it ended the process."""
    with lease() as pool:
        try:
            return pool.ask(call, location, size, etag, image_column, pin=location)
        except ReaderDied:
            return None


def list_archive(
    location: str,
    size: int,
    etag: str,
    kind: str,
    image_column: str = "",
    *,
    columns: pa.Schema = _NO_COLUMNS,
    max_members: int = listing.MAX_MEMBERS,
    all_pages: bool = False,
    chosen: listing.Chosen = ("", (), ()),
) -> Iterator[pa.RecordBatch]:
    """See `listing.list_archive`. Where its reader dies, the archive itself is the last row."""
    schema = packed(columns).hex()
    question = (location, size, etag, kind, image_column, schema, max_members, all_pages, chosen)
    number = next(_numbers)
    try:
        if kind == _DIED:
            raise ReaderDied("looking into it ends the process that does")
        with lease() as pool:
            for given in itertools.count():
                answer = pool.ask("list_archive", number, given, question, pin=location)
                if not answer:
                    return
                yield from pa.ipc.open_stream(answer)
    except ReaderDied as death:
        yield listing.broken_archive(location, etag, ArchiveBroken("read_error", str(death)))


def read_reference(ref: ImageRef, max_bytes: int) -> bytes:
    """The bytes of an image. Raises ImageError, also where the reader of its archive dies."""
    if ref.container is None:
        return read_image(ref, max_bytes)
    with lease() as pool:
        return pool.read(ref, max_bytes)
