"""What lies in a bucket of S3 or a container of Azure: several ranges or folders at once."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

from imagecensus.transforms.storage.listing_ranges import HIGHEST, Range, cut_names, list_ranges
from imagecensus.transforms.storage.locations import S3

_PAGE = 1000
_PLAIN_PAGES = 4  # what is listed by one request after the other, before it is worth more
_UNORDERED = "--x-s3"  # how names of S3's directory buckets end


def list_objects(client: Any, root: str, prefix: str) -> Iterator[Any]:
    """All objects (`path`, `size`, `e_tag`, `last_modified`) whose names begin with the prefix.

    More than a few pages are listed by threads at once, each object once and in the same order
    each time: in S3 in ranges of names, folders or not; in Azure, where a listing cannot begin at
    a name, folder by folder. One flat folder of Azure, and what has no order, is listed in turn.

    Args:
      client: of obstore.
      root: `s3://bucket/`, `az://container/` …
      prefix: of the names.
    """
    ordered = not root.rstrip("/").endswith(_UNORDERED)
    names: list[str] = []
    pages = _pages(client, Range(prefix), ordered)
    for number, page in enumerate(pages, 1):
        yield from page
        names += [found["path"] for found in page]
        if number == _PLAIN_PAGES:
            break
    else:
        return
    rest: list[Range] = []
    objects: list[Any] = []
    if not root.startswith(S3):
        objects, rest = _folders(client, prefix, names)
    elif ordered and names and names == sorted(names):
        cuts = cut_names(prefix, lambda stem, start: _first_name(client, stem, start))
        rest = [one for one in cuts if not one.end or one.end > names[-1]]
        rest[0] = rest[0]._replace(first=max(rest[0].first, names[-1]))
    if not rest:
        for page in pages:
            yield from page
        return
    pages.close()
    listed = set(names)
    ranged = list_ranges(rest, lambda one: _pages(client, one, ordered))
    for found in itertools.chain(objects, ranged):
        if found["path"] not in listed:
            yield found


def _pages(client: Any, names: Range, ordered: bool = True) -> Generator[list[Any], None, None]:
    """The objects of a range, page by page; where names have an order, up to its end."""
    import obstore

    folder = names.prefix.rpartition("/")[0]
    first = max(names.prefix, names.first)
    # The library lists whole folders; where a name is begun, it starts before it.
    offset = _before(first) if ordered and first.rstrip("/") != folder else None
    try:
        pages = obstore.list(client, folder or None, offset=offset, chunk_size=_PAGE)
    except ValueError:  # no name that the library can express
        pages = obstore.list(client, folder or None, chunk_size=_PAGE)
    for page in pages:
        yield [found for found in page if names.has(found["path"])]
        last = page[-1]["path"] if page else ""
        past = last > names.prefix and not last.startswith(names.prefix)
        if ordered and (past or (names.end and last >= names.end)):
            return


def _before(name: str) -> str:
    """What is right before a name in the order of names, as good as that can be said."""
    letter = name[-1]
    if letter == "\0":
        return name[:-1]
    code = 0xD7FF if letter == "\ue000" else ord(letter) - 1
    # A slash would end a folder, whose name may be empty then.
    return name[:-1] + (chr(code) if chr(code) != "/" else ".") + HIGHEST


def _first_name(client: Any, stem: str, start: str) -> str | None:
    for page in _pages(client, Range(stem, start)):
        if page:
            return str(page[0]["path"])
    return None


def _folders(client: Any, prefix: str, names: list[str]) -> tuple[list[Any], list[Range]]:
    """The objects and folders directly there; nothing, where the first names are of objects.

    For these come all at once, and there may be millions.
    """
    import obstore

    if any("/" not in name[len(prefix) :] for name in names):
        return [], []
    found = obstore.list_with_delimiter(client, prefix.rpartition("/")[0] or None)
    objects = [item for item in found["objects"] if item["path"].startswith(prefix)]
    folders = [f"{name}/" for name in found["common_prefixes"] if name.startswith(prefix)]
    if len(folders) == 1 and not objects:
        return _folders(client, folders[0], names)
    return objects, [Range(folder) for folder in folders]
