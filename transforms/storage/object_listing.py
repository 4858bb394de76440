"""What lies in a bucket of S3 or a container of Azure: several ranges or folders at once."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from imagecensus.transforms.storage.listing_ranges import (
    HIGHEST,
    LISTERS,
    Range,
    cut_range,
    list_ranges,
    whole_stems,
)
from imagecensus.transforms.storage.locations import S3, UNORDERED

_PAGE = 1000
_PLAIN_PAGES = 4  # what is listed by one request after the other, before it is worth more


def list_objects(client: Any, root: str, prefix: str) -> Iterator[Any]:
    """All objects (`path`, `size`, `e_tag`, `last_modified`) whose names begin with the prefix.

    More than a few pages are listed by threads at once, each object once and in the same order
    each time: in S3 in ranges of names, folders or not; in Azure folder by folder, and where the
    objects lie in one, in ranges between names that are there. What has no order, or a server that
    begins no listing at a name, is listed in turn.

    Args:
      client: of obstore.
      root: `s3://bucket/`, `az://container/` …
      prefix: of the names.
    """
    # Accounts of Azure with folders have another order than that of letters.
    ordered = root.startswith(S3) and not root.rstrip("/").endswith(UNORDERED)
    names: list[str] = []
    pages = range_pages(client, Range(prefix), ordered)
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
        between = [] if rest else _named_ranges(client, prefix, names)
        if between:
            pages.close()
            listed = set(names)
            for found in list_ranges(
                between, lambda one: whole_stems(_pages_between(client, one, between), _name_of)
            ):
                if found["path"] not in listed:
                    yield found
            return
    elif ordered and names and names == sorted(names):
        cuts = cut_range(Range(prefix), lambda stem, start: first_name(client, stem, start))
        rest = [one for one in cuts if not one.end or one.end > names[-1]]
        rest[0] = rest[0]._replace(first=max(rest[0].first, names[-1]))
    if not rest:
        for page in pages:
            yield from page
        return
    pages.close()
    listed = set(names)
    ranged = list_ranges(rest, lambda one: whole_stems(range_pages(client, one, ordered), _name_of))
    for found in itertools.chain(objects, ranged):
        if found["path"] not in listed:
            yield found


def _name_of(found: Any) -> str:
    return str(found["path"])


def range_pages(
    client: Any, names: Range, ordered: bool = True
) -> Generator[list[Any], None, None]:
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


def first_name(client: Any, stem: str, start: str) -> str | None:
    """The first name, at or after `start`, of those that begin with `stem`; None: none."""
    for page in range_pages(client, Range(stem, start)):
        if page:
            return str(page[0]["path"])
    return None


class _Between(NamedTuple):
    """Objects after one of a name, up to one that begins another range.

    Attributes:
      prefix: of the names.
      after: the name.
      first: the object of that name; None: it was listed before.
    """

    prefix: str
    after: str
    first: Any = None


def _named_ranges(client: Any, prefix: str, names: list[str]) -> list[_Between]:
    """Ranges of what follows the names that were listed; none: the server begins at no name.

    Of the order of names nothing is taken for granted but that there is one.
    """
    first = _first_object(client, prefix, names[-2]) if len(names) > 1 else None
    if first is None or first["path"] != names[-1]:
        return []
    cuts = cut_range(Range(prefix), lambda stem, start: first_name(client, stem, start))
    starts = [one.first for one in cuts if one.first > names[-1]]
    with concurrent.futures.ThreadPoolExecutor(LISTERS) as pool:
        found = pool.map(lambda start: _first_object(client, prefix, _before(start)), starts)
    firsts = {one["path"]: one for one in found if one is not None and one["path"] > names[-1]}
    begun = [_Between(prefix, name, first) for name, first in sorted(firsts.items())]
    return [_Between(prefix, names[-1]), *begun] if begun else []


def _pages_between(
    client: Any, names: _Between, ranges: list[_Between]
) -> Generator[list[Any], None, None]:
    """The objects of a range, page by page; to the end, where no other one begins on the way.

    So that all ranges together have all objects, whatever the order of their names.
    """
    import obstore

    ends = {one.after for one in ranges if one.first is not None}
    if names.first is not None:
        yield [names.first]
    folder = names.prefix.rpartition("/")[0]
    for page in obstore.list(client, folder or None, offset=names.after, chunk_size=_PAGE):
        end = next((at for at, found in enumerate(page) if found["path"] in ends), None)
        yield [found for found in page[:end] if found["path"].startswith(names.prefix)]
        if end is not None:
            return


def _first_object(client: Any, prefix: str, after: str) -> Any:
    """The first object with the prefix after a name; None: there is none, or it cannot be asked."""
    import obstore

    folder = prefix.rpartition("/")[0]
    try:
        pages = obstore.list(client, folder or None, offset=after, chunk_size=_PAGE)
    except ValueError:  # no name that the library can express
        return None
    for page in pages:
        for found in page:
            if found["path"].startswith(prefix):
                return found
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
