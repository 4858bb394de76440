"""What lies in a bucket: listed page by page, several folders at once; or copied here."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator

from imagecensus.transforms.storage.gcs import (
    TIMEOUT,
    StorageError,
    bucket_client,
    read,
    retry,
    split_bucket,
    told_errors,
)

LISTERS = 8
_PAGE = 1000  # objects; the most that one request gives
_PAGES_AHEAD = 4
_FIELDS = "items(name,size,generation),prefixes,nextPageToken"


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
    ahead = []  # queues of pages, in name order of their folders
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
