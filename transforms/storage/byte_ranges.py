"""Parts of a file or object: single ranges, and a seekable stream for libraries that want one."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, cast

from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.local import open_file
from imagecensus.transforms.storage.protocol import ChangedError

__all__ = ["ChangedError", "open_stream", "read_range", "size_of"]

DISK_BLOCK = 16 << 10  # small: listing an archive hops from header to header
BUCKET_BLOCK = 4 << 20  # large: each block is one request


def read_range(location: str, offset: int, length: int, etag: str = "") -> bytes:
    """At most `length` bytes from `offset`; fewer only at the end of the file.

    Args:
      location: a local path, `file://` uri, or uri of a store.
      etag: version as listed; "": whatever is there now.

    Raises:
      FileNotFoundError, PermissionError, ChangedError or OSError.
    """
    if length <= 0:
        return b""
    return store.store_of(location).read_range(location, offset, length, etag)


def open_stream(location: str, size: int, etag: str = "", block: int = 0) -> BinaryIO:
    """A seekable stream over a file or object of `size` bytes, read ahead in blocks.

    Raises like `read_range`, also while it is read.
    """
    if store.is_remote(location):
        stream = _ObjectStream(location, size, etag)
        return cast(BinaryIO, io.BufferedReader(stream, block or BUCKET_BLOCK))
    return open(open_file(location, etag), "rb", buffering=block or DISK_BLOCK)


def size_of(location: str) -> int:
    """Bytes of a file or object. Raises FileNotFoundError, PermissionError or OSError."""
    return store.stat(location).size


class _ObjectStream(io.RawIOBase):
    """An object as a raw stream; each read is one request."""

    def __init__(self, location: str, size: int, etag: str):
        self._location, self._size, self._etag, self._at = location, size, etag, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        data = read_range(self._location, self._at, length, self._etag)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
