"""What lies in a bucket: listed page by page, several folders at once."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

from imagecensus.transforms.storage.gcs_client import bucket_client, retry, told_errors
from imagecensus.transforms.storage.protocol import TIMEOUT

LISTERS = 16
_PAGE = 1000  # objects; the most that one request gives
_PAGES_AHEAD = 3
_MOST_RANGES = 64
_DEEPEST = 200  # letters that all names have in common
_FIELDS = "items(name,size,generation,updated,md5Hash,crc32c),prefixes,nextPageToken"


def list_objects(bucket: str, prefix: str) -> Iterator[Any]:
    """All objects (`name`, `size`, `generation`) whose names begin with the prefix.

    They are listed by threads at once, a few pages ahead: folder by folder where one page holds
    what is directly there, else in ranges of names, so that a flat prefix is no slower.

    Raises StorageError.
    """
    pages = list_pages(bucket, prefix, "/")
    page, folders = next(pages, ([], set()))
    second = next(pages, None)
    pages.close()
    if second is not None:
        starts = _range_starts(bucket, prefix)
        ends = [*starts[1:], ""]
        yield from _list_ranges(bucket, [(prefix, *one) for one in zip(starts, ends, strict=True)])
        return
    yield from page
    if len(folders) == 1:
        yield from list_objects(bucket, folders.pop())
    else:
        yield from _list_ranges(bucket, [(folder, "", "") for folder in sorted(folders)])


def _range_starts(bucket: str, prefix: str) -> list[str]:
    """Where to cut the names that begin with the prefix: where their first differing letters do.

    Each letter that occurs costs one request for one name. The first start is the prefix.
    """
    stem = prefix
    for _ in range(_DEEPEST):
        found: list[str] = []
        start = stem
        while len(found) < _MOST_RANGES:
            name = _first_name(bucket, stem, start)
            if name is None:
                break
            if name == stem:
                start = stem + "\0"
                continue
            found.append(name[: len(stem) + 1])
            start = stem + _next_letter(name[len(stem)])
        if len(found) != 1:
            return [prefix, *found[1:]]
        stem = found[0]
    return [prefix]


def _next_letter(letter: str) -> str:
    code = ord(letter) + 1
    return chr(0xE000 if 0xD800 <= code <= 0xDFFF else min(code, 0x10FFFF))


def _first_name(bucket: str, prefix: str, start: str) -> str | None:
    for page, _ in list_pages(bucket, prefix, None, start=start, size=1):
        for blob in page:
            if blob.name >= start:
                return str(blob.name)
    return None


def _list_ranges(bucket: str, ranges: list[tuple[str, str, str]]) -> Iterator[Any]:
    """The objects of ranges of names (prefix, first, end), some at once, a page of each in turn.

    So that all go on, and the order is the same each time.
    """
    stop = threading.Event()
    waiting = iter(ranges)
    ahead: collections.deque[queue.Queue[Any]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(LISTERS, "list") as pool:
        try:
            while True:
                if len(ahead) < LISTERS and (one := next(waiting, None)):
                    ahead.append(queue.Queue(_PAGES_AHEAD))
                    pool.submit(_fill, ahead[-1], bucket, one, stop)
                    continue
                if not ahead:
                    return
                page = ahead[0].get()
                if page is None:
                    ahead.popleft()
                    continue
                if isinstance(page, BaseException):
                    raise page
                ahead.rotate(-1)
                yield from page
        finally:
            stop.set()


def _fill(
    pages: queue.Queue[Any], bucket: str, names: tuple[str, str, str], stop: threading.Event
) -> None:
    prefix, first, end = names

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                pages.put(item, timeout=0.2)
                return

    try:
        for page, _ in list_pages(bucket, prefix, None, start=first, end=end):
            if stop.is_set():
                return
            # An emulator may not know of starts and ends.
            put([b for b in page if b.name >= first and (not end or b.name < end)])
        put(None)
    except BaseException as error:
        put(error)


def list_pages(
    bucket: str,
    prefix: str,
    delimiter: str | None,
    *,
    start: str = "",
    end: str = "",
    size: int = _PAGE,
) -> Generator[tuple[list[Any], set[str]], None, None]:
    """Pages of a listing: (objects, "folders" found with the delimiter).

    Of names from `start` on and before `end`, where these are given.
    """
    with told_errors(f"gs://{bucket}/{prefix}", "listed"):
        listing = bucket_client().list_blobs(
            bucket, prefix=prefix, delimiter=delimiter, fields=_FIELDS, retry=retry(),
            timeout=TIMEOUT, page_size=size, start_offset=start or None, end_offset=end or None,
        )  # fmt: skip
        for page in listing.pages:
            yield list(page), set(page.prefixes)
