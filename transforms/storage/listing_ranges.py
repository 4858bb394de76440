"""A listing by many requests at once: the names are cut into ranges, whatever store they are in."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

LISTERS = 16
_PAGES_AHEAD = 3
_MOST_RANGES = 64
_ENOUGH_RANGES = 10  # as digits give; where there are fewer, they are cut further
_MOST_CUTS = 3
_COMPANIONS = 10  # names of an image and of what lies beside it: fewer
_DEEPEST = 200  # letters that all names have in common
HIGHEST = chr(0x10FFFF)


class Range(NamedTuple):
    """Names that begin with `prefix`, from `first` on and before `end`; "" is open."""

    prefix: str
    first: str = ""
    end: str = ""

    def has(self, name: str) -> bool:
        return (
            name.startswith(self.prefix)
            and name >= self.first
            and (not self.end or name < self.end)
        )


# The first name, at or after the second text, of those that begin with the first one; None: none.
FirstName = Callable[[str, str], str | None]
Names = TypeVar("Names")  # a range


def cut_range(names: Range, first_name: FirstName, enough: int = _ENOUGH_RANGES) -> list[Range]:
    """A range as smaller ones: cut where the first differing letters of its names do.

    Each letter that occurs costs one request. Where few do, as in years, the next ones count too,
    until there are enough ranges. An image and what lies beside it stay together.
    """

    def first_inside(stem: str, start: str) -> str | None:
        name = first_name(stem, max(start, names.first))
        return name if name is not None and names.has(name) else None

    stems = [names.prefix]
    with concurrent.futures.ThreadPoolExecutor(LISTERS) as pool:
        for _ in range(_MOST_CUTS):
            if len(stems) >= enough:
                break
            longer = list(pool.map(lambda stem: _next_stems(stem, first_inside), stems))
            if longer == [[stem] for stem in stems]:
                break
            stems = [stem for some in longer for stem in some]
        whole = [stem[: stem_end(stem)] for stem in stems]
        torn = sorted({w for w, stem in zip(whole, stems, strict=True) if w != stem})
        few = dict(
            zip(torn, pool.map(lambda stem: _has_few(stem, first_inside), torn), strict=True)
        )
    first = max(names.first, names.prefix)
    cuts = dict.fromkeys(w if few.get(w) else s for w, s in zip(whole, stems, strict=True))
    starts = [first, *(start for start in list(cuts)[1:] if start > first)]
    return [Range(names.prefix, *one) for one in zip(starts, [*starts[1:], names.end], strict=True)]


def _has_few(stem: str, first_name: FirstName) -> bool:
    """Whether names that begin so are no more than an image and what lies beside it."""
    start = stem
    for _ in range(_COMPANIONS):
        name = first_name(stem, start)
        if name is None:
            return True
        start = name + "\0"
    return False


def stem_end(name: str) -> int:
    """Where the first dot of the last part of a name ends; without one, where the name does."""
    dot = name.find(".", name.rfind("/") + 1)
    return dot + 1 if dot >= 0 else len(name)


def whole_stems(pages: Iterator[list[Any]], name_of: Callable[[Any], str]) -> Iterator[list[Any]]:
    """Pages that do not end between names that are the same up to their first dot.

    So an image and what lies beside it come together. Where there are very many, pages do.
    """
    held: list[Any] = []
    for page in pages:
        page = held + page
        name = name_of(page[-1]) if page else ""
        stem, at = name[: stem_end(name)], len(page)
        while at > len(page) - _COMPANIONS and at and name_of(page[at - 1]).startswith(stem):
            at -= 1
        at = at if at > len(page) - _COMPANIONS else len(page)
        yield page[:at]
        held = page[at:]
    yield held


def _next_stems(stem: str, first_name: FirstName) -> list[str]:
    """The beginnings, longer than this one, that names with this one have; itself: none differ."""
    beginning = stem
    for _ in range(_DEEPEST):
        found: list[str] = []
        start = beginning
        while len(found) < _MOST_RANGES:
            name = first_name(beginning, start)
            if name is None or name < start:
                break
            if name == beginning:
                start = beginning + "\0"
                continue
            found.append(name[: len(beginning) + 1])
            start = beginning + _next_letter(name[len(beginning)])
        if len(found) != 1:
            return found or [stem]
        beginning = found[0]
    return [stem]


def _next_letter(letter: str) -> str:
    code = ord(letter) + 1
    return chr(0xE000 if 0xD800 <= code <= 0xDFFF else min(code, 0x10FFFF))


def list_ranges(
    ranges: list[Names], pages: Callable[[Names], Iterator[list[Any]]]
) -> Iterator[Any]:
    """The objects of ranges of names, some at once, a page of each in turn.

    So that all go on, and the order is the same each time. `pages` gives those of one range.
    """
    stop = threading.Event()
    waiting = iter(ranges)
    ahead: collections.deque[queue.Queue[Any]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(LISTERS, "list") as pool:
        try:
            while True:
                if len(ahead) < LISTERS and (one := next(waiting, None)):
                    ahead.append(queue.Queue(_PAGES_AHEAD))
                    pool.submit(_fill, ahead[-1], pages(one), stop)
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


def _fill(found: queue.Queue[Any], pages: Iterator[list[Any]], stop: threading.Event) -> None:
    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                found.put(item, timeout=0.2)
                return

    try:
        for page in pages:
            if stop.is_set():
                return
            put(page)
        put(None)
    except BaseException as error:
        put(error)
