"""What lies in a Google bucket: listed page by page, several folders or ranges of names at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from imagecensus.transforms.storage.gcs_client import bucket_client, retry, storage_errors
from imagecensus.transforms.storage.listing_ranges import Range, cut_names, list_ranges
from imagecensus.transforms.storage.protocol import TIMEOUT

_PAGE = 1000  # objects; the most that one request gives
_FIELDS = "items(name,size,generation,updated,md5Hash,crc32c),prefixes,nextPageToken"


def list_objects(bucket: str, prefix: str) -> Iterator[Any]:
    """All objects (`name`, `size`, `generation`) whose names begin with the prefix.

    They are listed by threads at once, a few pages ahead: folder by folder where one page holds
    what is directly there, else in ranges of names, so that a flat prefix is no slower.

    Raises StorageError.
    """

    def first_name(stem: str, start: str) -> str | None:
        for page, _ in list_pages(bucket, stem, None, start=start, size=1):
            for blob in page:
                if blob.name >= start:
                    return str(blob.name)
        return None

    def pages_of(names: Range) -> Iterator[list[Any]]:
        for page, _ in list_pages(bucket, names.prefix, None, start=names.first, end=names.end):
            # An emulator may not know of starts and ends.
            yield [blob for blob in page if names.has(blob.name)]

    pages = list_pages(bucket, prefix, "/")
    page, folders = next(pages, ([], set()))
    second = next(pages, None)
    pages.close()
    if second is not None:
        yield from list_ranges(cut_names(prefix, first_name), pages_of)
        return
    yield from page
    if len(folders) == 1:
        yield from list_objects(bucket, folders.pop())
    else:
        yield from list_ranges([Range(folder) for folder in sorted(folders)], pages_of)


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
