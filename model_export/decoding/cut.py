"""Whether a file ends before the end that it announces: seen by its structure, for its status."""

from __future__ import annotations

from typing import Literal

from imagecensus.model_export.decoding.errors import UNDECODED, ImageError, truncated
from imagecensus.model_export.decoding.signatures import identify

_BOXED = frozenset(("AVIF", "HEIF", "JPEG2000", "JPEG XL", "CR3"))
_END_OF_CODESTREAM = b"\xff\xd9"
_QOI_END = b"\x00" * 7 + b"\x01"


def as_truncated(error: ImageError, data: bytes) -> ImageError:
    """The error, or `truncated` in place of `decode_error` where the file lacks its end."""
    name = error.image_format or identify(data) or ""
    if error.status != "decode_error" or not is_cut(data, name):
        return error
    return truncated(name, str(error).rpartition(UNDECODED)[2])


def is_cut(data: bytes, name: str) -> bool:
    """Whether bytes are missing at the end; False too where the format does not say."""
    if name == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if name == "QOI":
        return not data.endswith(_QOI_END)
    if name == "TIFF":
        return _tiff_is_cut(data)
    if data[:1] == b"\xff":  # a bare codestream, without boxes
        return name == "JPEG2000" and _END_OF_CODESTREAM not in data[-64:]
    return name in _BOXED and _last_box_is_cut(data)


def _last_box_is_cut(data: bytes) -> bool:
    """Of a file that is made of boxes: length, four letters, content."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # to the end of the file
            return kind == b"jp2c" and _END_OF_CODESTREAM not in data[-64:]
        if size < 8:
            return False
        at += size
    return at > len(data)


def _tiff_is_cut(data: bytes) -> bool:
    """Whether the first directory lies behind the end."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    start, size = (8, 8) if b"+" in data[2:4] else (4, 4)
    return int.from_bytes(data[start : start + size], order) + 14 > len(data)
