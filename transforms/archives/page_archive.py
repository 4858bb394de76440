"""Files with several pages or frames as archives of them: `scan.tif#page=3`, counted from 1."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

from imagecensus.model_export.decoding import pages
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.members import PAGES, Member, Stream
from imagecensus.transforms.storage import byte_ranges

_HEAD = 4096
_MAX_FILE = 1 << 30
_KEPT_FILE = 64 << 20  # one such file is kept: its pages are read one after the other


def may_have_pages(name: str) -> bool:
    """By the suffix, as this is asked for every file."""
    return os.path.splitext(name)[1][1:].lower() in pages.SUFFIXES


def count_pages(file: Stream) -> int:
    """Pages of a file, 1 where it has no such thing."""
    file.seek(0)
    head = file.read(_HEAD)
    if head.startswith(b"\x89PNG") and b"acTL" not in head:
        return 1
    return pages.count(head + file.read(_MAX_FILE))


def list_pages(file: Stream) -> Iterator[Member]:
    """A member a page."""
    for number in range(1, count_pages(file) + 1):
        yield Member(f"page={number}", -1, (PAGES, number))


def read_page(location: str, etag: str, number: int, max_bytes: int) -> bytes:
    """A page as bytes of its own. Raises ImageError, OSError."""
    size = byte_ranges.size_of(location)
    if size > max_bytes:
        raise ImageError(
            "too_large", f"{size:,} bytes, limit {max_bytes:,} (raise it with --max-bytes)"
        )
    read = _kept_file if size <= _KEPT_FILE else byte_ranges.read_range
    return pages.select(read(location, 0, size, etag), number)


@functools.lru_cache(maxsize=1)
def _kept_file(location: str, offset: int, size: int, etag: str) -> bytes:
    return byte_ranges.read_range(location, offset, size, etag)
