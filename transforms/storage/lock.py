"""The lock of an output: the operating system's on disk, a lease in a store.

In a store nobody frees a lock when its owner dies, so that the lock is an object that its owner
renews.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from imagecensus.transforms.storage.local import not_writable
from imagecensus.transforms.storage.locations import GOOGLE, is_bucket
from imagecensus.transforms.storage.protocol import ConflictError, StorageError, as_sentence
from imagecensus.transforms.storage.store import store_of

LEASE_SECONDS = 120.0
_LOCK_TRIES, _LOCK_PAUSE = 20, 0.1


class Lock:
    """Holds an output dataset for one run; the operating system frees it when a process dies.

    In a store another run may take it over from one that was not heard of for `LEASE_SECONDS`, as
    from a laptop that slept. Then `on_lost` is called, and `check_held` raises.
    """

    def __init__(self, location: str, on_lost: Callable[[], None] = lambda: None):
        self.location, self._on_lost = location, on_lost
        self._handle = -1

    def __enter__(self) -> Lock:
        if is_bucket(self.location):
            check_conditional_writes(os.path.dirname(self.location))
            self._lease = Lease(self.location, self._on_lost)
            holder = self._lease.acquire()
            if holder:
                raise self._held_by(holder)
            return self
        try:
            self._handle = os.open(self.location, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise not_writable(self.location, error) from None
        if not self._flock():
            owner = os.pread(self._handle, 100, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise self._held_by(f"process {owner}")
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if is_bucket(self.location):
            self._lease.release()
        else:
            os.close(self._handle)

    def check_held(self) -> None:
        """Raises StorageError where this run does not hold the lock any more."""
        if is_bucket(self.location):
            held = self._lease.is_held()
        else:
            try:
                held = os.path.samestat(os.stat(self.location), os.fstat(self._handle))
            except OSError:
                held = False
        if not held:
            raise StorageError(
                f"{os.path.dirname(os.path.dirname(self.location))}: the lock of this run was"
                " removed or taken over by another run, so it stops; what it has finished stays:"
                " when no other run goes on, run the same command again"
            )

    def check(self) -> None:
        """Refuses where a run holds the lock now; takes nothing. Raises StorageError."""
        if is_bucket(self.location):
            holder = Lease(self.location).holder()
            if holder:
                raise self._held_by(holder)
        elif os.path.exists(self.location):
            self._handle = os.open(self.location, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not self._flock(fcntl.LOCK_SH):
                    owner = os.pread(self._handle, 100, 0).decode(errors="replace").strip()
                    raise self._held_by(f"process {owner}")
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

    def _held_by(self, owner: str) -> StorageError:
        return StorageError(
            f"{os.path.dirname(os.path.dirname(self.location))}: another run is writing to this"
            f" output ({owner}); wait for it, or choose another --output"
        )


def check_conditional_writes(folder: str) -> None:
    """Refuses a folder of a store that overwrites what it was asked to leave alone.

    Two runs would both hold the lock there. Google's is known to keep conditions.

    Raises StorageError.
    """
    if folder.startswith(GOOGLE):
        return
    store, probe = store_of(folder), f"{folder}/probe-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(ConflictError):  # with an answer that was lost: the name is new
        store.write(probe, b"1", create_only=True)
    try:
        with as_sentence(probe, "read"):
            version = store.stat(probe).version
        for condition in ({"create_only": True}, {"if_match": "0" * len(version)}):
            with contextlib.suppress(ConflictError):
                store.write(probe, b"2", **condition)
                raise StorageError(
                    f"{folder}: this store overwrites objects that a write on a condition must"
                    " leave alone, so that two runs could spoil each other's rows; choose an"
                    " --output in a store that keeps conditions (If-Match, If-None-Match)"
                )
    finally:
        store.delete(probe)


class Lease:
    """A lock that outlives no run by much: an object that its owner renews.

    A run that was killed leaves the object behind. Another run takes it over at once where it can
    see that the owner is dead (same machine), else once it was not renewed for `LEASE_SECONDS`.
    """

    def __init__(self, uri: str, on_lost: Callable[[], None] = lambda: None):
        self.uri, self._on_lost = uri, on_lost
        self._store = store_of(uri)
        self._owner = {
            "host": os.uname().nodename, "machine": _machine(), "pid": os.getpid(),
            "began": time.time_ns(),
        }  # fmt: skip
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def acquire(self) -> str | None:
        """None, or who holds it. Raises StorageError."""
        for _ in range(3):
            version, holder, renewed = self._look()
            if version and holder != self._owner and not self._is_dead(holder, renewed):
                return _name(holder)
            if self._put(version):
                self._thread.start()
                return None
        return "a run that began at the same moment"

    def is_held(self) -> bool:
        """Whether it is still this owner's. Raises StorageError."""
        return self._look()[1] == self._owner

    def holder(self) -> str | None:
        """Who holds it now; takes nothing. Raises StorageError."""
        version, holder, renewed = self._look()
        return _name(holder) if version and not self._is_dead(holder, renewed) else None

    def release(self) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(StorageError):
            if self._look()[1] == self._owner:
                self._store.delete(self.uri)

    def _look(self) -> tuple[str, dict[str, Any], float]:
        """(version or "", owner, when the store's clock says it was renewed)."""
        with as_sentence(self.uri, "read"):
            try:
                found = self._store.stat(self.uri)
            except FileNotFoundError:
                return "", {}, 0.0
            try:
                owner = json.loads(self._store.read(self.uri))
            except (ValueError, FileNotFoundError):
                owner = {}
            owner = owner if isinstance(owner, dict) else {}
            owner.pop("renewed", None)
            return found.version, owner, found.modified

    def _is_dead(self, owner: dict[str, Any], renewed: float) -> bool:
        here = (os.uname().nodename, _machine())
        if (owner.get("host"), owner.get("machine", here[1])) == here:
            try:
                os.kill(int(owner["pid"]), 0)
            except (ProcessLookupError, KeyError, ValueError):
                return True
            except PermissionError:
                pass
        return self._now() - renewed > LEASE_SECONDS

    def _now(self) -> float:
        """The store's clock, by an object written now: ours may differ from the owner's."""
        probe = f"{os.path.dirname(self.uri)}/clock-{uuid.uuid4().hex[:8]}"
        self._store.write(probe, b"")
        with as_sentence(probe, "read"):
            now = self._store.stat(probe).modified
        self._store.delete(probe)
        return now

    def _put(self, version: str) -> bool:
        """Writes the object if it still is of that version; False where it is not."""
        # An ETag may be a digest of the bytes: each renewal has bytes of its own.
        data = json.dumps(self._owner | {"renewed": time.time_ns()}).encode()
        try:
            self._store.write(self.uri, data, create_only=not version, if_match=version)
        except ConflictError:
            # Perhaps it is ours: a request whose answer was lost, and that was repeated.
            return self._look()[1] == self._owner
        return True

    def _keep(self) -> None:
        while not self._done.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(StorageError):  # the next one may come through
                version, owner, _ = self._look()
                if owner != self._owner or not self._put(version):
                    self._on_lost()
                    return


def _machine() -> str:
    """This start of the machine and this container: others may have the same name and processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return ""


def _name(owner: dict[str, Any]) -> str:
    return f"{owner.get('host', 'unknown')}:{owner.get('pid', '')}"
