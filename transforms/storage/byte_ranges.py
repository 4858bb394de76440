"""Parts of a file or object: single ranges, and a seekable stream for libraries that want one."""

from __future__ import annotations

import contextlib
import io
import os
import stat

from imagecensus.transforms.storage import gcs, store

DISK_BLOCK = 16 << 10  # small: listing an archive hops from header to header
BUCKET_BLOCK = 4 << 20  # large: each block is one request


class ChangedError(OSError):
    """The file is not the one that was listed."""


def read_range(location: str, offset: int, length: int, etag: str = "") -> bytes:
    """At most `length` bytes from `offset`; fewer only at the end of the file.

    Args:
      location: a local path, `file://` uri or `gs://` uri.
      etag: mtime in ns or generation as listed; "": whatever is there now.

    Raises:
      FileNotFoundError, PermissionError, ChangedError or OSError.
    """
    if length <= 0:
        return b""
    if store.is_bucket(location):
        return _read_object_range(location, offset, length, etag)
    handle = _open_file(location, etag)
    try:
        chunks = []
        while length:
            chunk = os.pread(handle, length, offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset, length = offset + len(chunk), length - len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    finally:
        os.close(handle)


def open_stream(location: str, size: int, etag: str = "", block: int = 0) -> io.BufferedReader:
    """A seekable stream over a file or object of `size` bytes, read ahead in blocks.

    Raises like `read_range`, also while it is read.
    """
    if store.is_bucket(location):
        return io.BufferedReader(_ObjectStream(location, size, etag), block or BUCKET_BLOCK)
    return open(_open_file(location, etag), "rb", buffering=block or DISK_BLOCK)


def size_of(location: str) -> int:
    """Bytes of a file or object. Raises FileNotFoundError, PermissionError or OSError."""
    if not store.is_bucket(location):
        return os.stat(store.path_of_uri(location)).st_size
    with _object_errors():
        blob = store.bucket_object(location)
        blob.reload()
        return blob.size


def _open_file(location: str, etag: str) -> int:
    # Not blocking: a pipe put in an archive's place must not hang the job.
    path = store.path_of_uri(location)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    info = os.fstat(handle)
    if stat.S_ISREG(info.st_mode) and etag in ("", str(info.st_mtime_ns)):
        return handle
    os.close(handle)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(22, "not a regular file")
    raise ChangedError(116, "the archive was changed after it was listed")


def _read_object_range(location: str, offset: int, length: int, etag: str) -> bytes:
    from google.api_core import exceptions

    try:
        with _object_errors():
            # raw: ranges are of the bytes as stored, also where the object says it is gzipped.
            return store.bucket_object(location).download_as_bytes(
                start=offset,
                end=offset + length - 1,
                raw_download=True,
                if_generation_match=int(etag) if etag else None,
                checksum=None,
                retry=gcs.retry(),
                timeout=gcs.TIMEOUT,
            )
    except exceptions.RequestRangeNotSatisfiable:
        return b""


@contextlib.contextmanager
def _object_errors():
    from google.api_core import exceptions

    try:
        yield
    except exceptions.RequestRangeNotSatisfiable:
        raise
    except exceptions.NotFound:
        raise FileNotFoundError(2, "no such object") from None
    except exceptions.PreconditionFailed:
        raise ChangedError(116, "the archive was replaced after it was listed") from None
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise PermissionError(13, str(error.message)) from None
    except exceptions.GoogleAPICallError as error:
        raise OSError(5, str(error.message)) from None


class _ObjectStream(io.RawIOBase):
    """An object as a raw stream; each read is one request."""

    def __init__(self, location: str, size: int, etag: str):
        self._location, self._size, self._etag, self._at = location, size, etag, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._at

    def seek(self, offset, whence=io.SEEK_SET):
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer):
        length = min(len(buffer), self._size - self._at)
        data = read_range(self._location, self._at, length, self._etag)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
