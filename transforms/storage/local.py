"""Files on this machine, and on what is mounted here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import urllib.parse
from collections.abc import Callable, Iterator

from imagecensus.model_export.common.atomic import atomic_path
from imagecensus.transforms.storage.protocol import ChangedError, StorageError, Stored, conflict

_WRITE_REMEDIES = {
    errno.EISDIR: "name a file",
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EROFS: "make it writable, or choose another --output",
    errno.EACCES: "make it writable, or choose another --output",
    errno.EPERM: "make it writable, or choose another --output",
    errno.ENOENT: "its folder is gone: put it back, or run the same command again",
}
# What a file system answers that has no hard links: FAT, many of those in user space.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
Put = Callable[[str, str], None]  # a temporary path, and the one that it becomes


class LocalStore:
    """Files. A version is the time of the last change in nanoseconds, as listings say."""

    def check(self, location: str) -> str:
        return "files of this machine"

    def list(self, prefix: str) -> Iterator[Stored]:
        folder = prefix if os.path.isdir(prefix) else os.path.dirname(prefix)
        for top, folders, names in os.walk(folder or "."):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(top, name)
                if path.startswith(prefix):
                    yield self.stat(path)

    def list_folder(self, folder: str) -> Iterator[Stored]:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entry.path for entry in entries)
        except FileNotFoundError:
            return
        for path in found:
            with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                yield self.stat(path)

    def stat(self, uri: str) -> Stored:
        info = os.stat(path_of_uri(uri))
        return Stored(uri, info.st_size, str(info.st_mtime_ns), info.st_mtime)

    def read(self, uri: str, version: str = "") -> bytes:
        with open(open_file(uri, version) if version else path_of_uri(uri), "rb") as file:
            return file.read()

    def read_range(self, uri: str, offset: int, length: int, version: str = "") -> bytes:
        handle = open_file(uri, version)
        try:
            chunks = []
            while length > 0:
                chunk = os.pread(handle, length, offset)
                if not chunk:
                    break
                chunks.append(chunk)
                offset, length = offset + len(chunk), length - len(chunk)
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            os.close(handle)

    def write(self, uri: str, data: bytes, *, create_only: bool = False, if_match: str = "") -> str:
        condition = _only_if(uri, create_only, if_match) if create_only or if_match else os.replace
        with atomic_file(uri, condition) as partial, open(partial, "wb") as file:
            file.write(data)
        return version_of(uri)

    def upload(self, uri: str, path: str) -> None:
        with open(path, "rb") as file:
            self.write(uri, file.read())

    def copy(self, uri: str, target: str) -> None:
        try:
            os.link(path_of_uri(uri), path_of_uri(target))
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise not_writable(target, error) from None
            self.write(target, self.read(uri))

    def delete(self, uri: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path_of_uri(uri))


def version_of(location: str) -> str:
    """The version of a file for `if_match`: its mtime, and its inode.

    Two writes may fall into one tick of the file system's clock; they have two inodes.
    """
    info = os.stat(path_of_uri(location))
    return f"{info.st_mtime_ns}.{info.st_ino}"


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
        return urllib.parse.unquote_to_bytes(os.fsencode(uri[len("file://") :]))
    return os.fsencode(uri)


def open_file(location: str, version: str = "") -> int:
    """A handle of a regular file of that version. Raises ChangedError or another OSError."""
    # Not blocking: a pipe put in a file's place must not hang the job.
    path = path_of_uri(location)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    info = os.fstat(handle)
    known = ("", str(info.st_mtime_ns), f"{info.st_mtime_ns}.{info.st_ino}")
    if stat.S_ISREG(info.st_mode) and version in known:
        return handle
    os.close(handle)
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(21, "a folder", location)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(22, "not a regular file")
    raise ChangedError(116, "the archive was changed after it was listed")


@contextlib.contextmanager
def atomic_file(location: str, put: Put = os.replace) -> Iterator[str]:
    """`atomic_path` for a file of a dataset.

    Raises StorageError where the disk is full, the folder read-only or gone.
    """
    # "part" of part-0a1b.parquet, "plan" of plan-00001.parquet; else the file's name.
    kind = os.path.basename(location).split("-")[0]
    try:
        with atomic_path(location, put, kind) as partial:
            yield partial
    except OSError as error:
        raise not_writable(location, error) from None


def _only_if(uri: str, create_only: bool, if_match: str) -> Put:
    """A `put` for `atomic_file` that keeps the condition."""

    def create(partial: str, target: str) -> None:
        try:
            os.link(partial, target)  # fails where something is there, on NFS too
        except FileExistsError:
            raise conflict(uri) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            replace(partial, target)

    def replace(partial: str, target: str) -> None:
        # No call of the system replaces a file of a certain version: all writers that ask for
        # one take turns.
        folder = os.open(os.path.dirname(target) or ".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            there = version_of(target) if os.path.lexists(target) else ""
            if if_match not in (there, there.partition(".")[0]):
                raise conflict(uri)
            os.replace(partial, target)
        finally:
            os.close(folder)

    return create if create_only else replace


def not_writable(location: str, error: OSError) -> StorageError:
    remedy = _WRITE_REMEDIES.get(error.errno or 0, "run the same command again")
    reason = error.strerror or str(error)
    return StorageError(f"{location}: cannot be written: {reason}; {remedy}")
