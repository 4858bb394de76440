"""Tar archives, plain or packed: where each member's bytes lie.

Members that are no files of their own get no row: folders, labels of volumes, devices and pipes.
Links may point anywhere, or to an image that has a row already: the listing decides.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.members import (
    ArchiveBroken,
    BoundedReads,
    Member,
    Stream,
    failed,
    left_out,
    link,
    reason_of,
)

BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE  # an empty archive has so many bytes
_LONGEST_MAP = 16 << 20  # of a sparse member: a million pieces
_NO_FILES = (b"V", b"D")  # GNU tar's label of a volume, and list of what a folder held


def list_members(file: Stream, size: int | None, kind: str) -> Iterator[Member]:
    """All members but folders, in archive order; bodies are skipped.

    Archives that were joined (`cat a.tar b.tar`) are read to the end of the last one.

    Args:
      file: a seekable stream of the (decompressed) archive.
      size: its length in bytes, None where that is not known.
      kind: "tar", "tar.gz" and so on, first in `Member.where`; then offset and stored size; of a
        sparse member these are with its header, and its own size follows.

    Raises:
      ArchiveBroken: after the members that could be found.
    """
    before = 0
    try:
        tar = tarfile.TarFile(
            fileobj=BoundedReads(file),  # type: ignore[arg-type]  # it is read from only
            encoding="utf-8",
            errors="surrogateescape",
        )
        while True:
            info = tar.next()
            if info is None:
                more = _after_end(file, tar.offset)
                if not more:
                    break
                tar.offset = more
                continue
            # tarfile keeps every header otherwise.
            tar.members.clear()  # type: ignore[attr-defined]  # not in typeshed
            if tar.offset <= before or info.size < 0:
                raise ArchiveBroken("read_error", f"{info.name!r} declares {info.size} bytes")
            before = tar.offset
            member = _member(info, size, kind)
            if member:
                yield member
    except (tarfile.ReadError, EOFError) as error:
        raise ArchiveBroken("truncated", f"the archive ends early: {error}") from None
    except (tarfile.TarError, OSError, zlib.error, ValueError, RecursionError) as error:
        raise ArchiveBroken("read_error", reason_of(error)) from None


def _member(info: tarfile.TarInfo, size: int | None, kind: str) -> Member | None:
    if info.isdir() or info.type in _NO_FILES:
        return None
    if info.isdev():
        return left_out(info.name, "special")
    if info.issym() or info.islnk():
        return link(info.name, info.linkname, from_top=info.islnk())
    if info.type == b"M":
        text = "the rest of a member that begins in another volume of the archive"
        return failed(info.name, "unsupported_format", text, info.size)
    if not info.isreg():
        return failed(info.name, "not_an_image", f"a member of type {info.type!r}", info.size)
    start, end = info.offset_data, info.offset_data + info.size
    pieces = _pieces(info)
    if pieces is not None:  # their map is in the header, or behind that
        info.name = info.pax_headers.get("GNU.sparse.name", info.name)  # else a stand-in
        header = info.offset_data - info.offset
        if not _is_ascending(pieces, info.size) or header > _LONGEST_MAP:
            return failed(info.name, "read_error", "the map of the sparse member is damaged")
        start, end = info.offset, info.offset_data + sum(length for _, length in pieces)
    if size is not None and end > size:
        text = f"{info.size:,} bytes declared, the archive ends before them"
        return failed(info.name, "truncated", text, info.size)
    stored = (kind, start, end - start)
    return Member(info.name, info.size, stored if pieces is None else (*stored, info.size))


def _pieces(info: tarfile.TarInfo) -> list[tuple[int, int]] | None:
    """Offset and length in the member of what is stored of it; None: it is no sparse one."""
    return cast("list[tuple[int, int]] | None", info.sparse)  # typeshed has it as bytes


def _is_ascending(pieces: list[tuple[int, int]], size: int) -> bool:
    """Whether the pieces of a sparse member, as offset and length, follow each other in it."""
    at = 0
    for offset, length in pieces:
        if length and (offset < at or length < 0):
            return False
        at = offset + length if length else at  # headers have room for four
    return at <= size


def read_member(read_at: Callable[[int, int], bytes], where: Sequence[Any]) -> bytes:
    """The bytes of one member. Raises ImageError: `truncated` or `read_error`.

    Args:
      read_at: (offset, length) → bytes of the archive.
      where: of the member, without the kind.
    """
    offset, length, *sparse = where
    data = read_at(offset, length)
    if len(data) < length:
        raise ImageError("truncated", "the archive ends before the member does")
    return _without_holes(data, *sparse) if sparse else data


def _without_holes(data: bytes, size: int) -> bytes:
    """A sparse member as the file that it was, given its header and what is stored of it."""
    content = bytearray(size)
    try:
        # Its blocks are whole in an archive.
        info = tarfile.TarFile(fileobj=io.BytesIO(data + bytes(BLOCK))).next()
        pieces = _pieces(info) if info else None
        if info is None or pieces is None or not _is_ascending(pieces, size):
            raise ImageError("read_error", "the header of the sparse member is damaged")
        at = info.offset_data
        for offset, length in pieces:
            content[offset : offset + length] = data[at : at + length]
            at += length
    except (tarfile.TarError, ValueError) as error:
        raise ImageError("read_error", reason_of(error)) from None
    if at > len(data) or len(content) != size:
        raise ImageError("truncated", "the archive ends before the member does")
    return bytes(content)


def _after_end(file: Stream, offset: int) -> int:
    """Where the next archive begins behind the end mark at `offset`; 0: there is none.

    tarfile ends alike at the end mark, at a damaged header and at the end of the file.
    """
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise ArchiveBroken("truncated", "the archive ends without its end mark")
    if block.count(0) != BLOCK:
        raise ArchiveBroken(
            "read_error", f"the header at byte {offset:,} is damaged; what follows cannot be found"
        )
    at = offset + BLOCK
    while block := file.read(BLOCK):
        if block.count(0) != len(block):
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                text = f"what follows the archive's end mark at byte {at:,} is no tar"
                raise ArchiveBroken("read_error", text) from None
            return at
        at += len(block)
    if offset == 0 and at > _RECORD:
        raise ArchiveBroken("read_error", f"nothing but {at:,} zero bytes")
    return 0
