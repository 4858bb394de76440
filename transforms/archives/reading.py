"""The bytes of one member of a packed archive, by byte range where the kind allows it.

Members of tar, zip and TFRecords are read by ranges, in any order and by any number of threads.
Packed ones and Parquet row groups can only be read front to back: `Place` remembers how far.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from imagecensus.model_export.decoding import pages
from imagecensus.model_export.decoding.errors import too_many_bytes
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives import (
    page_archive,
    parquet_archive,
    tar_archive,
    tfrecord_archive,
    zip_archive,
)
from imagecensus.transforms.archives.members import (
    MEMBER_PAGE,
    PAGES,
    ArchiveBroken,
    reason_of,
)
from imagecensus.transforms.archives.packing import open_packed, split_kind
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.storage import byte_ranges

_BLOCK = 1 << 20


def is_sequential(member: str) -> bool:
    """Whether a member is best read after those before it: its kind has no random access."""
    kind, *where = json.loads(member)
    kind = where[1] if kind == MEMBER_PAGE else kind
    return kind == "parquet" or bool(split_kind(kind)[1])


def read_member(ref: ImageRef, max_bytes: int, place: Place) -> bytes:
    """The bytes of one member.

    Args:
      ref: of a member: its own size, and its archive's version, as listed.
      max_bytes: larger members are refused unread.
      place: where the last sequential reading ended; not used by two threads at a time.

    Raises:
      ImageError: the member's row.
      OSError: the archive itself cannot be read.
    """
    container, etag = ref.container or "", ref.etag
    kind, *where = json.loads(ref.member or "")
    if kind == "failed":
        raise ImageError(*where)
    if ref.size > max_bytes:
        raise too_many_bytes(ref.size, max_bytes)
    if kind == PAGES:
        return page_archive.read_page(container, etag, where[0], max_bytes)
    if kind == MEMBER_PAGE:
        number, whole = where[0], json.dumps(where[1:])
        file = dataclasses.replace(ref, member=whole)
        data = page_archive.keep(
            (container, etag, whole), ref.size, lambda: read_member(file, max_bytes, place)
        )
        return pages.select(data, number)
    if kind == "parquet":
        group, row, column, *at = where
        return place.rows(container, etag, group, column, row).read(row, max_bytes, *at)
    packing = split_kind(kind)[1]
    if packing:
        read_at = place.stream(container, etag, where[0], packing).read_at
    else:

        def read_at(offset: int, length: int) -> bytes:
            return byte_ranges.read_range(container, offset, length, etag)

    if kind == "zip":
        packed = where[2]
        if packed > max_bytes:
            raise ImageError("too_large", f"{packed:,} bytes packed, limit {max_bytes:,}")
        return zip_archive.read_member(read_at, where)
    if kind.startswith("tfrecord"):
        return tfrecord_archive.read_member(read_at, where)
    return tar_archive.read_member(read_at, where)


def as_stored(member: str) -> str:
    """The member as it is stored: where `read_member` finds bytes for `unpack`, not yet opened.

    For who reads in one process what another one opens. A member that nothing opens is itself.
    """
    kind, *where = json.loads(member)
    if kind == MEMBER_PAGE and where[1] == "tfrecord":
        kind, *where = where[1:]
    if kind != "tfrecord":
        return member
    offset, length, *_ = where
    return json.dumps(["record", offset, length + 4])


def unpack(member: str, stored: bytes) -> bytes:
    """The member's bytes, given those of `as_stored`. Raises ImageError."""
    kind, *where = json.loads(member)
    if kind == MEMBER_PAGE and where[1] == "tfrecord":
        return pages.select(unpack(json.dumps(where[1:]), stored), where[0])
    if kind != "tfrecord":
        return stored
    return tfrecord_archive.read_member(lambda *_: stored, where)


class Place:
    """How far sequential reading has come; kept between members and units.

    A member behind the place costs a new pass from the start of its archive or row group; members
    in order cost nothing but what lies between them. Used as a context, it closes at the end.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._reader: Any = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stream(self, container: str, etag: str, offset: int, packing: str) -> PackedContent:
        """The content of a packed file, not yet past `offset`."""
        found = self._at((container, etag), offset, lambda file: PackedContent(file, packing))
        return cast(PackedContent, found)

    def rows(
        self, container: str, etag: str, group: int, column: str, row: int
    ) -> parquet_archive.ImageRows:
        """The images of a row group, not yet past `row`."""

        def open_rows(file: BinaryIO) -> parquet_archive.ImageRows:
            return parquet_archive.ImageRows(file, group, column)

        found = self._at((container, etag, group, column), row, open_rows)
        return cast(parquet_archive.ImageRows, found)

    def _at(
        self, key: tuple[Any, ...], position: int, open_reader: Callable[[BinaryIO], Any]
    ) -> Any:
        if self._key != key or self._reader.at > position:
            self.close()
            container, etag = key[:2]
            size = byte_ranges.size_of(container)
            self._file = byte_ranges.open_stream(container, size, etag, block=_BLOCK)
            try:
                self._reader = open_reader(self._file)
            except ArchiveBroken as error:
                raise ImageError(error.status, str(error)) from None
            self._key = key
        return self._reader

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._key = self._reader = self._file = None


class PackedContent:
    """The content of a packed file, read front to back."""

    def __init__(self, file: BinaryIO, packing: str) -> None:
        self._content = open_packed(file, packing)
        self._broken: tuple[str, str] | None = None

    @property
    def at(self) -> int:
        return self._content.tell()

    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`, which is `at` or later. Raises ImageError."""
        if not self._broken:  # what lies behind a damage is not looked for again
            try:
                self._content.seek(offset)
                return self._content.read(length)
            except EOFError as error:
                self._broken = ("truncated", str(error))
            except (OSError, zlib.error) as error:
                self._broken = ("read_error", reason_of(error))
        raise ImageError(*self._broken)
