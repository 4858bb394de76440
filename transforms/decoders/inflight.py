"""What is being decoded and read right now, on disk, so that a crash leaves suspects.

Each process keeps one small file, a slot per thread; a thread writes the digest of the image it
is about to decode, or of the archive it is about to read from, and wipes it afterwards: two writes
to mapped memory, about a microsecond, which survive the process whatever ends it. A file whose
process is gone (nobody holds its lock any more) names suspects; they are handled in a process of
their own, see `isolate` and `isolate_reading`.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import mmap
import os
import tempfile
import time
import uuid

from imagecensus.transforms.storage.locations import is_bucket

_SLOT_BYTES = 16
_NOBODY = bytes(_SLOT_BYTES)
_SUFFIX = ".inflight"
_BIRTH_SECONDS = 60
_MAX_AGE = 7 * 86400  # seconds a dead journal outside of an output is kept


def folder_for(state: str) -> str:
    """Where the journals of an output are, given its state folder.

    Beside the output on disk; for a bucket in this machine's temporary folder: a journal is of use
    where the crash happened, and cannot be written to a bucket image by image.
    """
    if is_bucket(state):
        return folder_here("inflight", state)
    return os.path.join(state, "inflight")


def folder_here(purpose: str, state: str) -> str:
    """A folder for journals of an output in this machine's temporary folder, one for each user."""
    digest = hashlib.blake2b(f"{os.getuid()}:{state}".encode(), digest_size=8).hexdigest()
    return os.path.join(tempfile.gettempdir(), f"imagecensus-{purpose}-{digest}")


def digest_of(uri: str) -> bytes:
    """How a journal names an image."""
    return hashlib.blake2b(uri.encode(), digest_size=_SLOT_BYTES).digest()


class Journal:
    """The journal of this process. Methods may be called from many threads, one per slot."""

    def __init__(self, folder: str, slots: int):
        """Raises OSError where the folder cannot be written."""
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        self.path = os.path.join(folder, name)
        self._file = _create(folder, name)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # Really written, not a hole: on a full disk a hole would end in SIGBUS later.
            os.write(self._file, _NOBODY * slots)
            self._map = mmap.mmap(self._file, _SLOT_BYTES * slots)
        except (OSError, ValueError) as error:  # ValueError: only a part of it could be written
            os.unlink(self.path)
            os.close(self._file)
            raise OSError(str(error)) from None

    def enter(self, slot: int, digest: bytes) -> None:
        at = slot * _SLOT_BYTES
        self._map[at : at + _SLOT_BYTES] = digest

    def leave(self, slot: int) -> None:
        at = slot * _SLOT_BYTES
        self._map[at : at + _SLOT_BYTES] = _NOBODY

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._map.close()
        os.close(self._file)


def _create(folder: str, name: str) -> int:
    for _ in range(9):
        os.makedirs(folder, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # removed just now, as it was empty
            return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    raise FileNotFoundError(folder)


def read_suspects(folder: str) -> frozenset[bytes]:
    """Digests of what was being decoded or read when its process died."""
    suspects = set()
    for path in _dead(folder):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            data = file.read()
            slots = (data[at : at + _SLOT_BYTES] for at in range(0, len(data), _SLOT_BYTES))
            suspects.update(slot for slot in slots if len(slot) == _SLOT_BYTES and slot != _NOBODY)
    return frozenset(suspects)


def forget(folder: str, older_than: float = 0) -> None:
    """Removes the journals of dead processes, once all that they name is decided."""
    for path in _dead(folder):
        with contextlib.suppress(OSError):
            if time.time() - os.stat(path).st_mtime >= older_than:
                os.unlink(path)
    for place in _places(folder):
        with contextlib.suppress(OSError):
            os.rmdir(place)


def forget_old(folder: str) -> None:
    """Removes journals that no rerun has asked for in a week."""
    forget(folder, _MAX_AGE)


def _places(folder: str) -> list[str]:
    """The folder, and for a run over everything those of shards: "inflight-s0of4".

    A shard minds its own alone: another one's dead may be waiting for their rerun.
    """
    return [folder, *glob.glob(glob.escape(folder) + "-s*of*")]


def _dead(folder: str) -> list[str]:
    return [
        path
        for place in _places(folder)
        for path in glob.glob(os.path.join(glob.escape(place), "*" + _SUFFIX))
        if not _is_held(path)
    ]


def _is_held(path: str) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True  # gone meanwhile, or another user's
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        info = os.fstat(handle)
        # Empty: another process is just making it, and has yet to lock it.
        return info.st_size == 0 and time.time() - info.st_mtime < _BIRTH_SECONDS
    except OSError:
        return True
    finally:
        os.close(handle)
