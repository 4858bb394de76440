"""What all kinds of packed archives have in common: members, and how a listing breaks off."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

_LAST_WORD = frozenset(("tar", "tgz", "gz", "zip", "parquet", "tfrecord"))
_ARCHIVE_NAME = re.compile(
    r"\.(tar|tgz|tar\.gz|zip|parquet|tfrecords?(-\d+-of-\d+)?(\.gz)?)$", re.IGNORECASE
)
PAGES = "pages"  # the kind of files with several pages or frames
MAX_HEADER = 256 << 20  # the longest header or directory that is read into memory


def is_archive_name(name: str) -> bool:
    """Whether a file of this name is looked into. Cheap, as it is asked for every image."""
    return name.rpartition(".")[2][:8].lower() in _LAST_WORD and bool(_ARCHIVE_NAME.search(name))


class Stream(Protocol):
    """What is asked of the file of an archive."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def seekable(self) -> bool: ...


class Member(NamedTuple):
    """One image in an archive, as listed.

    `where` says how its bytes are found: the archive's kind, then what that kind needs; or
    ("failed", status, message) for a member whose row is known before anything is read.
    """

    name: str
    size: int  # -1: not known before reading
    where: tuple[Any, ...]


class ArchiveBroken(Exception):
    """An archive cannot be read any further; its members so far stand. `status` as in `Status`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def failed(name: str, status: str, message: str, size: int = -1) -> Member:
    return Member(name, size, ("failed", status, message))


class BoundedReads:
    """A file whose reads are bounded: a header may declare any size, memory is not given for it."""

    def __init__(self, file: Stream) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size == -1:
            size = MAX_HEADER + 1
        if not 0 <= size <= MAX_HEADER + 1:
            raise ArchiveBroken("read_error", f"a header of {size:,} bytes")
        data = self._file.read(size)
        if len(data) > MAX_HEADER:
            raise ArchiveBroken("read_error", f"a header of more than {MAX_HEADER:,} bytes")
        return data
