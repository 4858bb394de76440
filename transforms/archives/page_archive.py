"""Files with several pages or frames as archives of them: `scan.tif#page=3`, counted from 1.

Such a file may itself be a member of a tar or zip: `a.tar#scan.tif#page=3`.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from imagecensus.model_export.decoding import pages
from imagecensus.model_export.decoding.errors import too_many_bytes
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives import tar_archive, zip_archive
from imagecensus.transforms.archives.members import MEMBER_PAGE, PAGES, Member, Stream
from imagecensus.transforms.storage import byte_ranges

_HEAD = 4096
MAX_FILE = 1 << 30
_KEPT_FILE = 64 << 20
_KEPT_FILES = 2


def may_have_pages(name: str) -> bool:
    """By the suffix, as this is asked for every file."""
    return os.path.splitext(name)[1][1:].lower() in pages.SUFFIXES


def count_pages(file: Stream) -> int:
    """Pages of a file, 1 where it has no such thing."""
    file.seek(0)
    head = file.read(_HEAD)
    if head.startswith(b"\x89PNG") and b"acTL" not in head:
        return 1
    return pages.count(head + file.read(MAX_FILE))


def list_pages(file: Stream) -> Iterator[Member]:
    """A member a page."""
    for number in range(1, count_pages(file) + 1):
        yield Member(f"page={number}", -1, (PAGES, number))


def with_page_counts(members: Iterator[Member], file: Stream) -> Iterator[Member]:
    """Members of a tar or zip; `where` of those with several pages begins with their number.

    Each is looked into as it comes, as packed archives are read front to back.

    Args:
      file: the stream that the members are listed from.
    """

    def read_at(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    for member in members:
        pages_in = 1
        if member.where[0].startswith(("tar", "zip")) and may_have_pages(member.name):
            pages_in = _count_in(member, read_at)
        yield member if pages_in == 1 else paged(member, pages_in)


def _count_in(member: Member, read_at: Callable[[int, int], bytes]) -> int:
    if not 0 <= member.size <= MAX_FILE:
        return 1
    kind, *where = member.where
    archive = zip_archive if kind == "zip" else tar_archive
    try:
        return pages.count(archive.read_member(read_at, tuple(where)))
    except (ImageError, OSError, EOFError, MemoryError, zlib.error):  # its row will say so
        return 1


def paged(member: Member, number: int) -> Member:
    """A page of a member, or with their number all of them; still under the member's name."""
    return member._replace(where=(MEMBER_PAGE, number, *member.where))


def pages_of(member: Member) -> Iterator[Member]:
    """A member for each page of one from `with_page_counts`; another as it is."""
    if member.where[0] != MEMBER_PAGE:
        yield member
        return
    _, count, *where = member.where
    for number in range(1, count + 1):
        page = paged(member._replace(where=tuple(where)), number)
        yield page._replace(name=page_name(member.name, number))


def page_name(name: str, number: int) -> str:
    return f"{name}#page={number}"


def without_page(name: str) -> tuple[str, int]:
    """(the name of the file or member, the number of the page that its name asks for, or 0)."""
    whole, mark, number = name.rpartition("#page=")
    asks = mark and number.isascii() and number.isdigit() and len(number) < 10
    return (whole, int(number)) if asks else (name, 0)


def read_page(location: str, etag: str, number: int, max_bytes: int) -> bytes:
    """A page as bytes of its own. Raises ImageError, OSError."""
    size = byte_ranges.size_of(location)
    if size > max_bytes:
        raise too_many_bytes(size, max_bytes)

    def read() -> bytes:
        return byte_ranges.read_range(location, 0, size, etag)

    return pages.select(keep((location, etag), size, read), number)


def keep(key: tuple[Any, ...], size: int, read: Callable[[], bytes]) -> bytes:
    """The bytes that `read` gives, which is asked once while the file is among the last few.

    Its pages are asked for one after the other, or by threads at once, of which one reads.
    """
    return read() if size > _KEPT_FILE else _kept.get(key, read)


class _Kept:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[Any, concurrent.futures.Future[bytes]] = (
            collections.OrderedDict()
        )

    def get(self, key: tuple[Any, ...], read: Callable[[], bytes]) -> bytes:
        with self._lock:
            found = self._files.get(key)
            mine = found is None
            if found is None:
                found = self._files[key] = concurrent.futures.Future()
                if len(self._files) > _KEPT_FILES:
                    self._files.popitem(last=False)
        if mine:
            try:
                found.set_result(read())
            except BaseException as error:
                with self._lock:
                    self._files.pop(key, None)
                found.set_exception(error)
        return found.result()


_kept = _Kept()
