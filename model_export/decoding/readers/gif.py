"""GIF, by Pillow; that no frame grows the image is seen to before any is decoded."""

from __future__ import annotations

import struct

from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.decoding.opened import Opened
from imagecensus.model_export.decoding.readers.pillow_reader import open_plain

_END, _EXTENSION, _IMAGE = 0x3B, 0x21, 0x2C


def open_gif_frame(data: bytes, number: int) -> Opened:
    """The frame of that number, from 1, on what the frames before it left. Raises ImageError."""
    _check_extents(data)
    return open_plain(data, "GIF", number=number)


def _check_extents(data: bytes) -> None:
    """Pillow makes the image as large as its largest frame says, at a gigabyte for some bytes."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colours(flags)
    while at + 10 <= len(data) and data[at] != _END:
        if data[at] == _IMAGE:
            left, top, across, down, flags = struct.unpack_from("<4HB", data, at + 1)
            if left + across > width or top + down > height:
                raise ImageError("decode_error", "a frame lies outside of the image", "GIF")
            at += 11 + _colours(flags)
        elif data[at] == _EXTENSION:
            at += 2
        else:  # Pillow looks on for the next block
            at += 1
            continue
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1


def _colours(flags: int) -> int:
    """Bytes of the table of colours behind a header."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
