"""The structure of a TIFF: its pages and their tags, read without decoding anything."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

_MAX_PAGES, _MAX_VALUES = 4096, 1 << 20
_FORMATS = {
    1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f",
    12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
ORIENTATION, SAMPLES, ROWS, PLANAR, SUB_IFDS = 274, 277, 278, 284, 330
MIN_SAMPLE, MAX_SAMPLE, COLORMAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 280, 281, 320, 338, 339
IMAGE_DEPTH = 32997
_KEPT = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 266, 271, 273, 274, 277, 278, 279, 280, 281, 284, 317, 320)
    + (322, 323, 324, 325, 330, 338, 339, 340, 341, 347, 530, 32997, 34675, 50706)
)
_SIZES = frozenset((WIDTH, LENGTH, BITS, SAMPLES, ROWS, 322, 323, IMAGE_DEPTH))
_CFA, _LINEAR_RAW = 32803, 34892
_RAW_COMPRESSIONS = frozenset((32767, 32769, 32770, 34713, 34892, 65000, 65535, 262))


class TagError(Exception):
    """The structure is damaged or cut."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """One image file directory.

    `offset`: where it begins. `tags`: number → values; `places`: number → where the values lie.
    """

    offset: int
    tags: dict[int, tuple[Any, ...]]
    places: dict[int, int]
    orientation_type: int = 3  # SHORT; careless writers take others

    def get(self, tag: int, default: int = 0) -> int:
        """The first value."""
        values = self.tags.get(tag)
        return int(values[0]) if values else default

    @property
    def size(self) -> tuple[int, int]:
        return self.get(WIDTH), self.get(LENGTH)

    @property
    def is_reduced(self) -> bool:
        """A smaller version of another page, or a mask of one."""
        return bool(self.get(SUBFILE) & 5) or self.get(255) == 2

    @property
    def is_mask(self) -> bool:
        return bool(self.get(SUBFILE) & 4) or self.get(PHOTOMETRIC) == 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiff:
    """`pages` of the chain, `sub_pages` that they point at; `big`: BigTIFF."""

    order: str
    big: bool
    pages: tuple[Page, ...]
    sub_pages: tuple[Page, ...]

    @property
    def full_pages(self) -> tuple[Page, ...]:
        """The pages of the chain but for reduced versions of others; all, where each is one."""
        return tuple(page for page in self.pages if not page.is_reduced) or self.pages

    @property
    def is_raw(self) -> bool:
        """A camera's raw file: DNG, NEF, ARW, PEF and such."""
        if not self.pages:
            return False
        first = self.pages[0]
        if 50706 in first.tags:
            return True
        if any(
            page.get(PHOTOMETRIC) in (_CFA, _LINEAR_RAW)
            or page.get(COMPRESSION) in _RAW_COMPRESSIONS
            for page in (*self.pages, *self.sub_pages)
        ):
            return True
        maker = bytes(v for v in first.tags.get(271, ()) if isinstance(v, int))
        # Kodak's DC cameras write a thumbnail and keep the rest behind it.
        return first.is_reduced and len(self.pages) == 1 and maker.startswith(b"Eastman Kodak")


def read_tiff(data: bytes) -> Tiff:
    """Raises TagError."""
    order = "<" if data[:2] == b"II" else ">"
    version = data[2:4]
    if version in (b"*\x00", b"\x00*"):
        # Two odd spellings of the version are taken as the byte order says, as Pillow does.
        big = False
    elif version == (b"+\x00" if order == "<" else b"\x00+"):
        big = True
    else:
        raise TagError("not a TIFF")
    reader = _Reader(data, order, big)
    try:
        pages = tuple(reader.chain(reader.first()))
        sub_pages = tuple(
            page
            for parent in pages[:16]
            for offset in parent.tags.get(SUB_IFDS, ())[:64]
            for page in reader.one(int(offset))
        )
    except (struct.error, OverflowError):
        raise TagError("the directory of pages is cut") from None
    if not pages:
        raise TagError("no page")
    return Tiff(order=order, big=big, pages=pages, sub_pages=sub_pages)


class _Reader:
    def __init__(self, data: bytes, order: str, big: bool) -> None:
        self._data, self._order, self._big = data, order, big

    def first(self) -> int:
        kind, at = ("Q", 8) if self._big else ("I", 4)
        return int(struct.unpack_from(self._order + kind, self._data, at)[0])

    def chain(self, offset: int) -> Iterator[Page]:
        """The pages from there on; a damaged end of the chain ends it."""
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < _MAX_PAGES:
            seen.add(offset)
            try:
                page, offset = self._page(offset)
            except (struct.error, OverflowError):
                if len(seen) == 1:
                    raise
                return
            yield page

    def one(self, offset: int) -> list[Page]:
        try:
            return [self._page(offset)[0]]
        except (struct.error, OverflowError):
            return []

    def _page(self, offset: int) -> tuple[Page, int]:
        order, big, data = self._order, self._big, self._data
        count = struct.unpack_from(order + ("Q" if big else "H"), data, offset)[0]
        entry, at = (20, offset + 8) if big else (12, offset + 2)
        if count > 4096:
            raise struct.error
        tags: dict[int, tuple[Any, ...]] = {}
        places: dict[int, int] = {}
        orientation_type = 3
        for i in range(count):
            here = at + i * entry
            tag, kind = struct.unpack_from(order + "HH", data, here)
            if tag not in _KEPT or kind not in _FORMATS:
                continue
            values = struct.unpack_from(order + ("Q" if big else "I"), data, here + 4)[0]
            form = _FORMATS[kind] * min(values, _MAX_VALUES)
            room, inline = (8, here + 12) if big else (4, here + 8)
            if struct.calcsize("=" + form) > room:
                inline = struct.unpack_from(order + ("Q" if big else "I"), data, inline)[0]
            try:
                found = struct.unpack_from(order + form, data, inline)
                if tag in _SIZES and tags.setdefault(tag, found) != found:
                    # Of two, one library takes the first and another the last.
                    raise TagError(f"the tag {tag} is there twice, with different values")
                tags[tag] = found
                places[tag] = inline
                orientation_type = kind if tag == ORIENTATION else orientation_type
            except (struct.error, OverflowError):
                continue  # other tags may be whole
        following = struct.unpack_from(order + ("Q" if big else "I"), data, at + count * entry)[0]
        page = Page(offset=offset, tags=tags, places=places, orientation_type=orientation_type)
        return page, int(following)


def with_first_page(data: bytes, tiff: Tiff, page: Page, *, upright: bool) -> bytes:
    """The file with another page as its first, so that any decoder reads that one.

    `upright`: its orientation tag is set to 1 too, so that no decoder turns the page.
    """
    turned = upright and ORIENTATION in page.tags and page.get(ORIENTATION, 1) != 1
    if page.offset == tiff.pages[0].offset and not turned:
        return data
    changed = bytearray(data)
    kind, at = ("Q", 8) if tiff.big else ("I", 4)
    struct.pack_into(tiff.order + kind, changed, at, page.offset)
    if turned:
        struct.pack_into(tiff.order + _FORMATS[page.orientation_type], changed, page.places[274], 1)
    return bytes(changed)
