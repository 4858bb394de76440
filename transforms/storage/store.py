"""Files, on disk or in a bucket, behind one set of functions.

A location is a local path, a `file://` uri (names that are not UTF-8), or `gs://bucket/name`.
Every write is atomic: a reader sees the whole object or none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import tempfile
import time
import urllib.parse

from imagecensus.transforms import fault_injection
from imagecensus.transforms.storage import gcs, gcs_listing, lock
from imagecensus.transforms.storage.gcs import (
    StorageError,
    bucket_client,
    bucket_object,
    split_bucket,
)

__all__ = ["StorageError", "bucket_client", "bucket_object", "split_bucket"]  # used as ours

WEB = ("http://", "https://")
TEMPORARY_PREFIX = ".tmp-"
_LOCK_TRIES, _LOCK_PAUSE = 20, 0.1


_WRITE_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EROFS: "make it writable, or choose another --output",
    errno.EACCES: "make it writable, or choose another --output",
    errno.EPERM: "make it writable, or choose another --output",
    errno.ENOENT: "its folder is gone: put it back, or run the same command again",
}


def _not_writable(location: str, error: OSError) -> StorageError:
    remedy = _WRITE_REMEDIES.get(error.errno, "run the same command again")
    reason = error.strerror or str(error)
    return StorageError(f"{location}: cannot be written: {reason}; {remedy}")


def is_bucket(location: str) -> bool:
    return location.startswith("gs://")


def join(base: str, *names: str) -> str:
    return "/".join([base.rstrip("/"), *names]) if is_bucket(base) else os.path.join(base, *names)


def uri_of_path(path: bytes) -> str:
    """The uri of a local file: its absolute path; percent-encoded where that is not UTF-8."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        return "file://" + urllib.parse.quote(path)
    return text if text.startswith("/") else os.path.abspath(text)


def path_of_uri(uri: str) -> bytes:
    """The inverse of `uri_of_path`."""
    if uri.startswith("file://"):
        return urllib.parse.unquote_to_bytes(uri[len("file://") :])
    return os.fsencode(uri)


def read(location: str) -> bytes:
    """The whole object. Raises FileNotFoundError, PermissionError or OSError."""
    if not is_bucket(location):
        with open(path_of_uri(location), "rb") as file:
            return file.read()
    return gcs.read(location)


def write(location: str, data: bytes) -> None:
    """Writes the object whole: temporary name, sync, rename; one finalised object in a bucket.

    Raises StorageError.
    """
    if is_bucket(location):
        gcs.write(location, data)
        return
    with atomic_path(location) as partial, open(partial, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def atomic_path(location: str):
    """A temporary local path that becomes the object when the block ends without an error.

    On disk it lies beside the target, so that the rename is atomic; in a bucket it is uploaded.

    Raises StorageError where the disk is full, the folder read-only or gone.
    """
    folder = None if is_bucket(location) else os.path.dirname(location) or "."
    partial = None
    try:
        handle, partial = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
        os.close(handle)
        yield partial
        if is_bucket(location):
            gcs.upload(location, partial)
            return
        fault_injection.reached(f"{_kind(location)}.partial")
        _sync(partial)
        fault_injection.reached(f"{_kind(location)}.synced")
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, location)
        _sync(folder)  # the new name itself
        fault_injection.reached(f"{_kind(location)}.renamed")
    except OSError as error:
        raise _not_writable(location, error) from None
    finally:
        if partial:
            with contextlib.suppress(OSError):
                os.unlink(partial)


def _kind(location: str) -> str:
    """ "part" of part-0a1b.parquet, "plan" of plan-00001-0a1b.parquet; else the file's name."""
    return os.path.basename(location).split("-")[0]


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def local_folder(location: str) -> str:
    """A local path of a folder: a bucket's is copied into the user's cache. Raises StorageError."""
    return gcs_listing.local_folder(location) if is_bucket(location) else location


@contextlib.contextmanager
def local_copy(location: str):
    """A local path of the object while the block lasts: a bucket's object is downloaded."""
    if not is_bucket(location):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as folder:
        path = os.path.join(folder, os.path.basename(location))
        with open(path, "wb") as file:
            file.write(read(location))
        yield path


@functools.cache
def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def exists(location: str) -> bool:
    if is_bucket(location):
        return gcs.exists(location)
    return os.path.exists(path_of_uri(location))


def delete(location: str) -> None:
    """Removes an object; it may be gone already."""
    if is_bucket(location):
        gcs.delete(location)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(location)


def list_names(folder: str) -> list[str]:
    """Names of the objects directly in a folder, sorted; empty where there is none."""
    if is_bucket(folder):
        return gcs_listing.list_names(folder)
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def make_folder(folder: str) -> None:
    """Makes a local folder; a bucket has none. Raises StorageError."""
    if is_bucket(folder):
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made: {error.strerror}; choose another --output"
        ) from None


def remove_temporary(folder: str) -> None:
    """Removes what an interrupted `atomic_path` left on disk. Call under the lock."""
    if not is_bucket(folder):
        for name in list_names(folder):
            if name.startswith(TEMPORARY_PREFIX):
                delete(os.path.join(folder, name))


class Lock:
    """Holds an output dataset for one run; the operating system frees it when a process dies."""

    def __init__(self, location: str):
        self.location = location
        self._handle = None

    def __enter__(self) -> Lock:
        if is_bucket(self.location):
            self._lease = lock.Lease(self.location)
            holder = self._lease.acquire()
            if holder:
                self._refuse(holder)
            return self
        try:
            self._handle = os.open(self.location, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _not_writable(self.location, error) from None
        if not self._flock():
            owner = os.pread(self._handle, 100, 0).decode(errors="replace").strip()
            os.close(self._handle)
            self._refuse(f"process {owner}")
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, *_):
        if is_bucket(self.location):
            self._lease.release()
        else:
            os.close(self._handle)

    def check(self) -> None:
        """Refuses where a run holds the lock now; takes nothing. Raises StorageError."""
        if is_bucket(self.location):
            holder = lock.Lease(self.location).holder()
            if holder:
                self._refuse(holder)
        elif os.path.exists(self.location):
            self._handle = os.open(self.location, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not self._flock(fcntl.LOCK_SH):
                    self._refuse("process " + os.pread(self._handle, 100, 0).decode().strip())
            finally:
                os.close(self._handle)

    def _flock(self, kind: int = fcntl.LOCK_EX) -> bool:
        # A run that was just killed takes a moment to be gone, and its rerun should not fail.
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
        return False

    def _refuse(self, owner: str):
        raise StorageError(
            f"{os.path.dirname(os.path.dirname(self.location))}: another run is writing to this"
            f" output ({owner}); wait for it, or choose another --output"
        )
