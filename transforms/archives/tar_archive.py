"""Tar archives, plain or in gzip: where each member's bytes lie.

Members that are no files of their own: folders, devices and pipes are not listed; links are,
as rows that say so, because a link in an archive may point anywhere.
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
)

BLOCK = tarfile.BLOCKSIZE


def list_members(file: Stream, size: int | None, kind: str) -> Iterator[Member]:
    """All members but folders, devices and pipes, in archive order; bodies are skipped.

    Args:
      file: a seekable stream of the (decompressed) archive.
      size: its length in bytes, None where that is not known.
      kind: "tar" or "tar.gz", first in `Member.where`; then offset and size.

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
                break
            # tarfile keeps every header otherwise.
            tar.members.clear()  # type: ignore[attr-defined]  # not in typeshed
            if tar.offset <= before or info.size < 0:
                raise ArchiveBroken("read_error", f"{info.name!r} declares {info.size} bytes")
            before = tar.offset
            member = _member(info, size, kind)
            if member:
                yield member
        _check_end(file, tar.offset)
    except (tarfile.ReadError, EOFError) as error:
        raise ArchiveBroken("truncated", f"the archive ends early: {error}") from None
    except (tarfile.TarError, OSError, zlib.error, ValueError, RecursionError) as error:
        raise ArchiveBroken("read_error", f"{type(error).__name__}: {error}") from None


def _member(info: tarfile.TarInfo, size: int | None, kind: str) -> Member | None:
    if info.isdir() or info.isdev():
        return None
    if info.issym() or info.islnk():
        text = f"a link to {info.linkname!r}; links in archives are not followed"
        return failed(info.name, "not_an_image", text)
    if info.issparse():
        return failed(info.name, "unsupported_format", "a sparse member", info.size)
    if not info.isreg():
        return failed(info.name, "not_an_image", f"a member of type {info.type!r}", info.size)
    if size is not None and info.offset_data + info.size > size:
        text = f"{info.size:,} bytes declared, the archive ends before them"
        return failed(info.name, "truncated", text, info.size)
    return Member(info.name, info.size, (kind, info.offset_data, info.size))


def _check_end(file: Stream, offset: int) -> None:
    """tarfile ends alike at the end mark, at a damaged header and at the end of the file."""
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise ArchiveBroken("truncated", "the archive ends without its end mark")
    if block.count(0) != BLOCK:
        raise ArchiveBroken(
            "read_error", f"the header at byte {offset:,} is damaged; what follows cannot be found"
        )
