"""`archives` with a journal: an archive whose listing kills its process does so only once.

The launcher looks into archives before a worker exists. Which one it is looking into it writes down
(`inflight`); where a process died over that, the next one has the archive listed by a child
(`isolate_reading`): what can be listed is, and the archive itself is a failed row.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
from collections.abc import Iterator

import pyarrow as pa

from imagecensus.transforms import activity
from imagecensus.transforms.archives import listing
from imagecensus.transforms.archives.members import ArchiveBroken
from imagecensus.transforms.decoders import inflight, isolate_reading

_SLOTS = 32  # archives looked into at once, at most
_NO_COLUMNS = pa.schema([])
_DIED = "died"  # a kind, for `list_archive`

_journal: inflight.Journal | None = None
_free: queue.SimpleQueue | None = None
_suspects: frozenset[bytes] = frozenset()
_apart: isolate_reading.Reader | None = None


@contextlib.contextmanager
def journal_in(folder: str, memory: int):
    """Keeps a journal in the folder while the block lists; the dead ones' suspects go apart."""
    global _journal, _free, _suspects, _apart
    try:
        _journal = inflight.Journal(folder, _SLOTS)
    except OSError as error:
        activity.LOGGER.warning("%s: no journal of listing: %s", folder, error)
        yield
        return
    _free = queue.SimpleQueue()
    for slot in range(_SLOTS):
        _free.put(slot)
    _suspects = inflight.read_suspects(folder)
    _apart = isolate_reading.Reader(memory=memory)
    try:
        yield
        inflight.forget(folder)  # only where all was listed
    finally:
        _journal.close()
        _apart.close()
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        _journal, _suspects = None, frozenset()


def archive_kind(location: str, size: int, etag: str, image_column: str = "") -> str | None:
    """See `archives.archive_kind`."""
    with _looking_into(location) as apart:
        if not apart:
            return listing.archive_kind(location, size, etag, image_column)
        try:
            return json.loads(*apart.ask("archive_kind", location, size, etag, image_column))
        except isolate_reading.ReaderDied:
            return _DIED


def is_table_of_images(location: str, size: int, etag: str, image_column: str) -> bool:
    """See `archives.is_table_of_images`."""
    with _looking_into(location) as apart:
        if not apart:
            return listing.is_table_of_images(location, size, etag, image_column)
        try:
            return json.loads(*apart.ask("is_table_of_images", location, size, etag, image_column))
        except isolate_reading.ReaderDied:
            return True  # its listing will say so


def column_schema(location: str, size: int, etag: str, image_column: str = "") -> pa.Schema:
    """See `archives.column_schema`."""
    with _looking_into(location) as apart:
        if not apart:
            return listing.column_schema(location, size, etag, image_column)
        try:
            [answer] = apart.ask("column_schema", location, size, etag, image_column)
        except isolate_reading.ReaderDied:
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
    """See `archives.list_archive`."""
    with _looking_into(location) as apart:
        if not apart:
            yield from listing.list_archive(
                location, size, etag, kind, image_column, columns, max_members
            )
            return
        try:
            if kind == _DIED:
                raise isolate_reading.ReaderDied("looking into it ends the process that does")
            packed = isolate_reading.packed(columns).hex()
            question = (location, size, etag, kind, image_column, packed, max_members)
            for answer in apart.ask("list_archive", *question):
                if answer:
                    yield from pa.ipc.open_stream(answer)
        except isolate_reading.ReaderDied as death:
            yield listing.broken_archive(location, etag, ArchiveBroken("read_error", str(death)))


@contextlib.contextmanager
def _looking_into(location: str):
    """Notes it in the journal; the child to ask in place of that, where it is suspect."""
    if _journal is None:
        yield None
        return
    digest = inflight.digest_of(location)
    if digest in _suspects:
        yield _apart
        return
    slot = _free.get()
    _journal.enter(slot, digest)
    try:
        yield None
    finally:
        _journal.leave(slot)
        _free.put(slot)
