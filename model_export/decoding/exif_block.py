"""The few tags of EXIF that are asked for, straight from its bytes.

Pillow parses each of a directory's tags, a maker's own ones among them, when one is asked for:
0.1 to 0.3 ms an image, against 0.01 ms here.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from typing import Any

ORIENTATION = 0x0112
_PREFIX = b"Exif\x00\x00"
_ORDERS = {b"II*\x00": "<", b"MM\x00*": ">"}
_IN_XMP = re.compile(rb'tiff:Orientation(="|>)([0-9])')
_BYTES, _TEXT, _UNDEFINED = 1, 2, 7
_RATIONALS = (5, 10)
# Kind of a value → its size in bytes, and how it is unpacked.
_KINDS = {
    _BYTES: (1, "B"), _TEXT: (1, "B"), 3: (2, "H"), 4: (4, "I"), 5: (8, "2I"), 6: (1, "b"),
    _UNDEFINED: (1, "B"), 8: (2, "h"), 9: (4, "i"), 10: (8, "2i"), 11: (4, "f"), 12: (8, "d"),
}  # fmt: skip


class ExifBlock:
    """A directory of EXIF: what is damaged in it is not there."""

    def __init__(self, blob: bytes = b"", xmp: bytes = b"", start: int = -1) -> None:
        """Args:
        blob: a TIFF's header, then directories; `Exif` may stand in front. Empty: it has no tags.
        xmp: of the same file; it gives the orientation where EXIF does not.
        start: of the directory; -1: that of the header.

        Raises ValueError: it has no such header.
        """
        while blob.startswith(_PREFIX):
            blob = blob[len(_PREFIX) :]
        self._order = _ORDERS.get(blob[:4], "")
        if len(blob) < 8 or not self._order:
            if blob:
                raise ValueError("no header of EXIF")
            start = 0
        elif start < 0:
            start = self._number("I", blob, 4)
        self._blob, self._xmp = blob, xmp
        self._tags = self._directory(start)

    def _number(self, kind: str, blob: bytes, at: int) -> int:
        return int(struct.unpack_from(self._order + kind, blob, at)[0])

    def _directory(self, start: int) -> dict[int, int]:
        """tag → where its entry is."""
        if start + 2 > len(self._blob):
            return {}
        entries = self._blob[start + 2 : start + 2 + 12 * self._number("H", self._blob, start)]
        count = len(entries) // 12
        tags = struct.unpack_from(self._order + "H10x" * count, entries)
        return dict(zip(tags, range(start + 2, start + 2 + 12 * count, 12), strict=True))

    def __contains__(self, tag: int) -> bool:
        return tag in self._tags

    def __getitem__(self, tag: int) -> Any:
        found = self.get(tag)
        if found is None:
            raise KeyError(tag)
        return found

    def get(self, tag: int, default: Any = None) -> Any:
        """Text, bytes, a number, or a tuple of numbers; rationals are floats."""
        found = self._value(self._tags[tag]) if tag in self._tags else None
        if found is None and tag == ORIENTATION and self._xmp:
            match = _IN_XMP.search(self._xmp)
            found = int(match[2]) if match else None
        return default if found is None else found

    def _value(self, entry: int) -> Any:
        kind, count = struct.unpack_from(self._order + "HI", self._blob, entry + 2)
        at = entry + 8
        size, letter = _KINDS.get(kind, (0, ""))
        if not size:
            return None
        if size * count > 4:
            at = self._number("I", self._blob, at)
        data = self._blob[at : at + size * count]
        if len(data) < size * count:
            return None
        if kind == _TEXT:
            return data.removesuffix(b"\x00").decode("latin-1")
        if kind in (_BYTES, _UNDEFINED):
            return data
        if kind in _RATIONALS:
            numbers = tuple(
                itertools.starmap(_divided, struct.iter_unpack(self._order + letter, data))
            )
        else:
            numbers = struct.unpack(self._order + letter * count, data)
        return numbers[0] if len(numbers) == 1 else numbers

    def get_ifd(self, tag: int) -> ExifBlock:
        """The directory that a tag points at; one without tags where it points nowhere."""
        start = self.get(tag)
        if not isinstance(start, int):
            return ExifBlock()
        return ExifBlock(self._blob, start=start)


def _divided(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else math.nan
