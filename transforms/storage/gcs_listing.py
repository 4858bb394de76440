"""What lies in a Google bucket: listed page by page, several folders or ranges of names at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from imagecensus.transforms.storage.gcs_client import bucket_client, retry, storage_errors
from imagecensus.transforms.storage.listing_ranges import Range, cut_range, list_ranges, whole_stems
from imagecensus.transforms.storage.protocol import TIMEOUT

_PAGE = 1000  # objects; the most that one request gives
_FIELDS = "items(name,size,generation,updated,md5Hash,crc32c),prefixes,nextPageToken"


def list_objects(bucket: str, prefix: str) -> Iterator[Any]:
    """All objects (`name`, `size`, `generation`) whose names begin with the prefix.

    They are listed by threads at once, a few pages ahead: folder by folder where one page holds
    what is directly there, else in ranges of names, so that a flat prefix is no slower.

    Raises StorageError.
    """

    def first(stem: str, start: str) -> str | None:
        return first_name(bucket, stem, start)

    def pages_of(names: Range) -> Iterator[list[Any]]:
        return whole_stems(range_pages(bucket, names), lambda blob: str(blob.name))

    pages = list_pages(bucket, prefix, "/")
    page, folders = next(pages, ([], set()))
    second = next(pages, None)
    pages.close()
    if second is not None:
        yield from list_ranges(cut_range(Range(prefix), first), pages_of)
        return
    yield from page
    if len(folders) == 1:
        yield from list_objects(bucket, folders.pop())
    else:
        yield from list_ranges([Range(folder) for folder in sorted(folders)], pages_of)


def first_name(bucket: str, stem: str, start: str) -> str | None:
    """The first name, at or after `start`, of those that begin with `stem`; None: none."""
    for page, _ in list_pages(bucket, stem, None, start=start, size=1):
        for blob in page:
            if blob.name >= start:
                return str(blob.name)
    return None


def range_pages(bucket: str, names: Range) -> Iterator[list[Any]]:
    """The objects of a range of names, page by page, in order."""
    for page, _ in list_pages(bucket, names.prefix, None, start=names.first, end=names.end):
        # An emulator may not know of starts and ends.
        yield [blob for blob in page if names.has(blob.name)]


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
    with storage_errors(f"gs://{bucket}/{prefix}", "listed"):
        listing = bucket_client().list_blobs(
            bucket, prefix=prefix, delimiter=delimiter, fields=_FIELDS, retry=retry(),
            timeout=TIMEOUT, page_size=size, start_offset=start or None, end_offset=end or None,
        )  # fmt: skip
        for page in listing.pages:
            yield list(page), set(page.prefixes)
