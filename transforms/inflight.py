"""Which pictures are in the decoders right now, on disk, so that a crash leaves suspects.

Each process keeps one small file, a slot per decoding thread; a thread writes the digest of the
picture it is about to decode and wipes it afterwards: two writes to mapped memory, about a
microsecond, which survive the process whatever ends it. A file whose process is gone (nobody holds
its lock any more) names suspects; they are decoded in a process of their own, see `isolate`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import tempfile
import time
import uuid

_SLOT_BYTES = 16
_NOBODY = bytes(_SLOT_BYTES)
_SUFFIX = ".inflight"
_BIRTH_SECONDS = 60
_MAX_AGE = 7 * 86400  # seconds a dead journal outside of an output is kept


def folder_for(state: str) -> str:
    """Where the journals of an output are, given its state folder.

    Beside the output on disk; for a bucket in this machine's temporary folder: a journal is of use
    where the crash happened, and cannot be written to a bucket picture by picture.
    """
    if state.startswith("gs://"):
        digest = hashlib.blake2b(state.encode(), digest_size=8).hexdigest()
        return os.path.join(tempfile.gettempdir(), f"imagecensus-inflight-{digest}")
    return os.path.join(state, "inflight")


def digest_of(uri: str) -> bytes:
    """How a journal names a picture."""
    return hashlib.blake2b(uri.encode(), digest_size=_SLOT_BYTES).digest()


class Journal:
    """The journal of this process. Methods may be called from many threads, one per slot."""

    def __init__(self, folder: str, slots: int):
        """Raises OSError where the folder cannot be written."""
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}")
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        # Really written, not a hole: on a full disk a hole would end in SIGBUS later.
        os.write(self._file, _NOBODY * slots)
        self._map = mmap.mmap(self._file, _SLOT_BYTES * slots)

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


def read_suspects(folder: str) -> frozenset[bytes]:
    """Digests of the pictures that were in a decoder when its process died."""
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
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def forget_old(folder: str) -> None:
    """Removes journals that no rerun has asked for in a week."""
    forget(folder, _MAX_AGE)


def _dead(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [
        path
        for name in names
        if name.endswith(_SUFFIX) and not _is_held(path := os.path.join(folder, name))
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
