"""What lies in a bucket: listed page by page, several folders at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

from imagecensus.transforms.storage.gcs_client import bucket_client, retry, told_errors
from imagecensus.transforms.storage.protocol import TIMEOUT

LISTERS = 8
_PAGE = 1000  # objects; the most that one request gives
_PAGES_AHEAD = 4
_FIELDS = "items(name,size,generation,updated),prefixes,nextPageToken"


def list_objects(bucket: str, prefix: str) -> Iterator[Any]:
    """All objects (`name`, `size`, `generation`) whose names begin with the prefix.

    The "folders" under it are listed by `LISTERS` threads at once, a few pages ahead; the order
    is theirs: objects directly there first, then folder by folder in name order.

    Raises StorageError.
    """
    folders: set[str] = set()
    for page, found in list_pages(bucket, prefix, "/"):
        folders |= found
        yield from page
    if len(folders) == 1:
        yield from list_objects(bucket, folders.pop())
        return
    stop = threading.Event()
    ahead: list[queue.Queue[Any]] = []  # queues of pages, in name order of their folders
    waiting = iter(sorted(folders))
    with concurrent.futures.ThreadPoolExecutor(LISTERS, "list") as pool:
        try:
            while True:
                for folder in waiting:
                    pages: queue.Queue[Any] = queue.Queue(_PAGES_AHEAD)
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


def _fill(pages: queue.Queue[Any], bucket: str, folder: str, stop: threading.Event) -> None:
    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                pages.put(item, timeout=0.2)
                return

    try:
        for page, _ in list_pages(bucket, folder, None):
            put(page)
            if stop.is_set():
                return
        put(None)
    except BaseException as error:
        put(error)


def list_pages(
    bucket: str, prefix: str, delimiter: str | None
) -> Iterator[tuple[list[Any], set[str]]]:
    """Pages of a listing: (objects, "folders" found with the delimiter)."""
    with told_errors(f"gs://{bucket}/{prefix}", "listed"):
        listing = bucket_client().list_blobs(
            bucket, prefix=prefix, delimiter=delimiter, fields=_FIELDS, retry=retry(),
            timeout=TIMEOUT, page_size=_PAGE,
        )  # fmt: skip
        for page in listing.pages:
            yield list(page), set(page.prefixes)
