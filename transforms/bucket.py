"""Objects of a bucket (`gs://bucket/name`), through one pooled client per process.

Beam's own filesystem opens a client for each file: three requests and two connections an image.
Requests that fail for a passing reason (429, 5xx, a lost connection, a body cut short) are tried
again with growing pauses for `RETRY_SECONDS`; all of them may be repeated without harm.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import queue
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator

from model_export.errors import UserError

POOL_CONNECTIONS = 64  # at least as many as threads that read
RETRY_SECONDS = 120.0
RETRY_PAUSE = (0.2, 20.0)  # seconds: the first, the longest
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without one byte of an answer
LISTERS = 8
LEASE_SECONDS = 120.0
_PAGE = 1000  # objects; the most that one request gives
_PAGES_AHEAD = 4
_CORRUPT_TRIES = 3
_FIELDS = "items(name,size,generation),prefixes,nextPageToken"


class StorageError(UserError):
    """A location cannot be read or written. The message names it and the remedy."""


def split_bucket(uri: str) -> tuple[str, str]:
    """('bucket', 'object/name') of a gs:// uri."""
    bucket, _, name = uri[len("gs://") :].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write gs://BUCKET/PREFIX")
    return bucket, name


@functools.cache
def bucket_client():
    """The one client of this process; its connections are kept and shared by all threads.

    Raises StorageError at once where there are no credentials.
    """
    import google.auth.credentials
    import google.auth.exceptions
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        client = storage.Client(
            project="emulator", credentials=google.auth.credentials.AnonymousCredentials()
        )
    else:
        if not credentials_at_hand():
            raise _no_credentials("none found")
        try:
            client = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT", "none"))
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise _no_credentials(str(error)) from None
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=POOL_CONNECTIONS)
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    return client


def credentials_at_hand() -> bool:
    """Whether it is worth asking for credentials.

    google-auth looks for a metadata server for about 21 seconds where there is none: asked only
    on a machine of Google's, as its firmware or environment says.
    """
    from google.auth import _cloud_sdk
    from google.auth.compute_engine import _metadata

    told = ("GOOGLE_APPLICATION_CREDENTIALS", "GCE_METADATA_HOST", "GCE_METADATA_IP", "K_SERVICE")
    return (
        any(os.environ.get(name) for name in told)
        or os.path.isfile(_cloud_sdk.get_application_default_credentials_path())
        or _metadata.detect_gce_residency_linux()
    )


def _no_credentials(reason: str) -> StorageError:
    return StorageError(
        f"gs://: no credentials: {reason}; run `gcloud auth application-default login` or set"
        " GOOGLE_APPLICATION_CREDENTIALS to a key file"
    )


def bucket_object(uri: str, generation: str = ""):
    bucket, name = split_bucket(uri)
    return (
        bucket_client()
        .bucket(bucket)
        .blob(name, generation=int(generation) if generation else None)
    )


def retry():
    """How requests are repeated."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    first, longest = RETRY_PAUSE
    pauses = DEFAULT_RETRY.with_delay(initial=first, maximum=longest, multiplier=2.0)
    return pauses.with_timeout(RETRY_SECONDS)


@contextlib.contextmanager
def plain_errors(uri: str):
    """Google's errors as FileNotFoundError, PermissionError or OSError of the uri."""
    import google.auth.exceptions
    import requests
    from google.api_core import exceptions

    try:
        yield
    except (exceptions.NotFound, exceptions.PreconditionFailed):
        raise FileNotFoundError(2, "no such object, or it was replaced", uri) from None
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise PermissionError(13, _sentence(error), uri) from None
    except exceptions.RetryError as error:
        cause = error.cause or error
        raise OSError(5, f"given up after {RETRY_SECONDS:g} s: {_sentence(cause)}", uri) from None
    except (
        exceptions.GoogleAPIError,
        google.auth.exceptions.GoogleAuthError,
        requests.exceptions.RequestException,
    ) as error:
        raise OSError(5, _sentence(error), uri) from None


@contextlib.contextmanager
def told_errors(uri: str, what: str):
    """What `plain_errors` raises, as a StorageError that says what could not be done."""
    try:
        with plain_errors(uri):
            yield
    except OSError as error:
        if error.filename != uri:
            raise
        remedies = {2: "check the bucket's name", 13: "ask for the permission"}
        remedy = remedies.get(error.errno, "check the network and run the same command again")
        raise StorageError(f"{uri}: cannot be {what}: {error.strerror}; {remedy}") from None


def _sentence(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error or type(error).__name__).split())


def read(uri: str, generation: str = "") -> bytes:
    """The whole object, of that generation, as its checksum says.

    Raises FileNotFoundError, PermissionError, OSError.
    """
    from google.cloud.storage.exceptions import DataCorruption

    with plain_errors(uri):
        for _ in range(_CORRUPT_TRIES):
            with contextlib.suppress(DataCorruption):
                # 110 KB cost 4 microseconds; a body cut short is found by its length already.
                return bucket_object(uri, generation).download_as_bytes(
                    checksum="crc32c", retry=retry(), timeout=TIMEOUT
                )
        raise OSError(5, "other bytes come than its checksum says", uri)


def size_of(uri: str) -> int:
    """Bytes of the object. Raises FileNotFoundError, PermissionError, OSError."""
    with plain_errors(uri):
        blob = bucket_object(uri)
        blob.reload(retry=retry(), timeout=TIMEOUT)
        return blob.size


def write(uri: str, data: bytes) -> None:
    """Writes the object whole. Raises StorageError."""
    with told_errors(uri, "written"):
        bucket_object(uri).upload_from_string(
            data, "application/octet-stream", checksum="crc32c", retry=retry(), timeout=TIMEOUT
        )


def upload(uri: str, path: str) -> None:
    """Writes the object from a local file. Raises StorageError."""
    with told_errors(uri, "written"):
        bucket_object(uri).upload_from_filename(
            path, checksum="crc32c", retry=retry(), timeout=TIMEOUT
        )


def exists(uri: str) -> bool:
    with told_errors(uri, "looked up"):
        return bucket_object(uri).exists(retry=retry(), timeout=TIMEOUT)


def delete(uri: str) -> None:
    """Removes the object; it may be gone already. Raises StorageError."""
    with told_errors(uri, "deleted"), contextlib.suppress(FileNotFoundError), plain_errors(uri):
        bucket_object(uri).delete(retry=retry(), timeout=TIMEOUT)


def list_names(folder: str) -> list[str]:
    """Names of the objects directly in a folder, sorted. Raises StorageError."""
    bucket, prefix = split_bucket(folder.rstrip("/") + "/")
    pages = _pages(bucket, prefix, "/")
    return sorted(blob.name[len(prefix) :] for page, _ in pages for blob in page)


def list_objects(bucket: str, prefix: str) -> Iterator:
    """All objects (`name`, `size`, `generation`) whose names begin with the prefix.

    The "folders" under it are listed by `LISTERS` threads at once, a few pages ahead; the order
    is theirs: objects directly there first, then folder by folder in name order.

    Raises StorageError.
    """
    folders = set()
    for page, found in _pages(bucket, prefix, "/"):
        folders |= found
        yield from page
    if len(folders) == 1:
        yield from list_objects(bucket, folders.pop())
        return
    stop = threading.Event()
    ahead = []  # (queue of pages, folder), in name order
    waiting = iter(sorted(folders))
    with concurrent.futures.ThreadPoolExecutor(LISTERS, "list") as pool:
        try:
            while True:
                for folder in waiting:
                    pages = queue.Queue(_PAGES_AHEAD)
                    pool.submit(_fill, pages, bucket, folder, stop)
                    ahead.append(pages)
                    if len(ahead) >= LISTERS:
                        break
                if not ahead:
                    return
                pages = ahead.pop(0)
                while (page := pages.get()) is not None:
                    if isinstance(page, BaseException):
                        raise page
                    yield from page
        finally:
            stop.set()


def _fill(pages: queue.Queue, bucket: str, folder: str, stop: threading.Event) -> None:
    def put(item):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                pages.put(item, timeout=0.2)
                return

    try:
        for page, _ in _pages(bucket, folder, None):
            put(page)
            if stop.is_set():
                return
        put(None)
    except BaseException as error:
        put(error)


def _pages(bucket: str, prefix: str, delimiter: str | None) -> Iterator[tuple[list, set]]:
    """Pages of a listing: (objects, "folders" found with the delimiter)."""
    with told_errors(f"gs://{bucket}/{prefix}", "listed"):
        listing = bucket_client().list_blobs(
            bucket, prefix=prefix, delimiter=delimiter, fields=_FIELDS, retry=retry(),
            timeout=TIMEOUT, page_size=_PAGE,
        )  # fmt: skip
        for page in listing.pages:
            yield list(page), set(page.prefixes)


def local_folder(uri: str) -> str:
    """A copy on this machine of all objects under a prefix, kept in the user's cache.

    The copy's name is a digest of the objects' names and generations: what changed is fetched
    anew, and processes that fetch at the same time end with one copy.

    Raises StorageError: nothing there, or it cannot be read.
    """
    bucket, prefix = split_bucket(uri.rstrip("/") + "/")
    blobs = list(list_objects(bucket, prefix))
    if not blobs:
        raise StorageError(f"{uri}: no objects there; check the prefix")
    listed = json.dumps([uri, sorted((blob.name, blob.generation) for blob in blobs)])
    name = hashlib.sha256(listed.encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parent = os.path.join(cache, "imagecensus", "bucket")
    target = os.path.join(parent, name)
    if os.path.isdir(target):
        return target
    os.makedirs(parent, exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f".{name}-", dir=parent)
    try:
        for blob in blobs:
            relative = blob.name[len(prefix) :]
            path = os.path.normpath(os.path.join(partial, relative))
            if not relative or relative.endswith("/"):
                continue
            if not path.startswith(partial + os.sep):
                raise StorageError(f"gs://{bucket}/{blob.name}: a name that leaves its folder")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with told_errors(f"gs://{bucket}/{blob.name}", "read"), open(path, "wb") as file:
                file.write(read(f"gs://{bucket}/{blob.name}", str(blob.generation)))
        os.chmod(partial, 0o755)
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


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
