"""Tar archives, plain or packed: where each member's bytes lie.

Members that are no files of their own get no row: folders, labels of volumes, devices and pipes.
Links may point anywhere, or to an image that has a row already: the listing decides.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator

from imagecensus.transforms.archives.members import (
    ArchiveBroken,
    BoundedReads,
    Member,
    Stream,
    failed,
    left_out,
    link,
)

BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE  # an empty archive has so many bytes
_NO_FILES = (b"V", b"D")  # GNU tar's label of a volume, and list of what a folder held


def list_members(file: Stream, size: int | None, kind: str) -> Iterator[Member]:
    """All members but folders, in archive order; bodies are skipped.

    Archives that were joined (`cat a.tar b.tar`) are read to the end of the last one.

    Args:
      file: a seekable stream of the (decompressed) archive.
      size: its length in bytes, None where that is not known.
      kind: "tar", "tar.gz" and so on, first in `Member.where`; then offset and size.

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
        raise ArchiveBroken("read_error", f"{type(error).__name__}: {error}") from None


def _member(info: tarfile.TarInfo, size: int | None, kind: str) -> Member | None:
    if info.isdir() or info.type in _NO_FILES:
        return None
    if info.isdev():
        return left_out(info.name, "special")
    if info.issym() or info.islnk():
        return link(info.name, info.linkname, from_top=info.islnk())
    if info.issparse():
        return failed(info.name, "unsupported_format", "a sparse member", info.size)
    if info.type == b"M":
        text = "the rest of a member that begins in another volume of the archive"
        return failed(info.name, "unsupported_format", text, info.size)
    if not info.isreg():
        return failed(info.name, "not_an_image", f"a member of type {info.type!r}", info.size)
    if size is not None and info.offset_data + info.size > size:
        text = f"{info.size:,} bytes declared, the archive ends before them"
        return failed(info.name, "truncated", text, info.size)
    return Member(info.name, info.size, (kind, info.offset_data, info.size))


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
