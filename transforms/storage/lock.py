"""The lock of an output in a bucket, where no operating system frees it when its owner dies."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid

from imagecensus.transforms.storage.gcs import (
    TIMEOUT,
    StorageError,
    bucket_client,
    bucket_object,
    delete,
    retry,
    split_bucket,
    told_errors,
)

LEASE_SECONDS = 120.0


class Lease:
    """A lock that outlives no run by much: an object that its owner renews.

    A run that was killed leaves the object behind. Another run takes it over at once where it can
    see that the owner is dead (same machine), else once it was not renewed for `LEASE_SECONDS`.
    """

    def __init__(self, uri: str):
        self.uri = uri
        self._owner = {"host": os.uname().nodename, "pid": os.getpid(), "began": time.time_ns()}
        self._done = threading.Event()
        self._thread = None

    def acquire(self) -> str | None:
        """None, or who holds it. Raises StorageError."""
        for _ in range(3):
            generation, holder, renewed = self._look()
            if generation and holder != self._owner and not self._is_dead(holder, renewed):
                return _name(holder)
            if self._put(generation):
                self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
                self._thread.start()
                return None
        return "a run that began at the same moment"

    def holder(self) -> str | None:
        """Who holds it now; takes nothing. Raises StorageError."""
        generation, holder, renewed = self._look()
        return _name(holder) if generation and not self._is_dead(holder, renewed) else None

    def release(self) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(StorageError):
            if self._look()[1] == self._owner:
                delete(self.uri)

    def _look(self) -> tuple[int, dict, float]:
        """(generation or 0, owner, when the bucket's clock says it was renewed)."""
        from google.api_core import exceptions

        bucket, name = split_bucket(self.uri)
        with told_errors(self.uri, "read"):
            blob = bucket_client().bucket(bucket).get_blob(name, retry=retry(), timeout=TIMEOUT)
            if blob is None:
                return 0, {}, 0.0
            try:
                owner = json.loads(blob.download_as_bytes(retry=retry(), timeout=TIMEOUT))
            except (ValueError, exceptions.NotFound):
                owner = {}
            return blob.generation, owner, blob.updated.timestamp()

    def _is_dead(self, owner: dict, renewed: float) -> bool:
        if owner.get("host") == os.uname().nodename:
            try:
                os.kill(int(owner["pid"]), 0)
            except (ProcessLookupError, KeyError, ValueError):
                return True
            except PermissionError:
                pass
        return self._now() - renewed > LEASE_SECONDS

    def _now(self) -> float:
        """The bucket's clock, by an object written now: ours may differ from the owner's."""
        probe = f"{os.path.dirname(self.uri)}/clock-{uuid.uuid4().hex[:8]}"
        with told_errors(probe, "written"):
            blob = bucket_object(probe)
            blob.upload_from_string(b"", retry=retry(), timeout=TIMEOUT)
            now = blob.updated.timestamp()
        delete(probe)
        return now

    def _put(self, generation: int) -> bool:
        """Writes the object if it still is of that generation; False where it is not."""
        from google.api_core import exceptions

        blob = bucket_object(self.uri)
        try:
            with told_errors(self.uri, "written"):
                try:
                    blob.upload_from_string(
                        json.dumps(self._owner), if_generation_match=generation, retry=retry(),
                        timeout=TIMEOUT,
                    )  # fmt: skip
                except exceptions.PreconditionFailed:
                    raise _LostError from None
        except _LostError:
            # Perhaps it is ours: a request whose answer was lost, and that was repeated.
            return self._look()[1] == self._owner
        return True

    def _keep(self) -> None:
        while not self._done.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(StorageError):  # the next one may come through
                generation, owner, _ = self._look()
                if owner == self._owner:
                    self._put(generation)


class _LostError(Exception):
    """Another run wrote the lease first."""


def _name(owner: dict) -> str:
    return f"{owner.get('host', 'unknown')}:{owner.get('pid', '')}"
