"""A JPEG that lacks its end: what there is of it, and how much that is.

Cameras that lose power and uploads that break off leave them. One that lacks nothing but its end
mark has all its pixels; others are only for runs that accept them
(`PreprocessSpec.accept_truncated`).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
from PIL import Image

from imagecensus.model_export.decoding.errors import truncated
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened
from imagecensus.model_export.decoding.readers import jpeg

_ONES = b"\xff\x00"  # 1-bits, as they are written into a JPEG
_NOT_THERE = (255, 0, 254, 255)  # no JPEG has a whole row of exactly that
# In place of what is missing; longer than all blocks of one place.
_MADE_UP = (b"", *(bytes([some]) * 4096 for some in (0x55, 0xAA, 0x33, 0x0F)), _ONES * 4096)
_LAST_BYTES = 3  # at least one of them holds bits of the last block
_NOT_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_COEFFICIENTS = 64  # of a block
_BLOCK_BYTES = 24  # 1-bits that blocks of one place may swallow, of all components


def open_cut_jpeg(data: bytes, least: float) -> Opened | None:
    """None where it is no JPEG of 8 bits that libjpeg decodes row by row, or in scans.

    The image's `share` is the share of rows that are there; where it is less than `least`, its
    `load` raises ImageError. What is missing is grey.

    Args:
      least: 0: the end mark alone may be missing.
    """
    frame = jpeg.read_frame(data)
    if frame is None or not frame.is_scalable:
        return None
    opened = jpeg.open_jpeg(data + jpeg.END)

    def load(need: Need) -> LoadedImage:
        if not least and not _lacks_mark_alone(data):
            raise truncated("JPEG", "more than its end mark is missing")
        share = _share(data, need, progressive=frame.is_progressive) if least else 1.0
        if share < least:
            raise truncated("JPEG", f"{share:.1%} of its rows are there")
        loaded = opened.load(need)
        first = int(loaded.image.height * share)
        grey = 128 if loaded.image.mode == "L" else (128, 128, 128)
        # libjpeg leaves something there that depends on the bits before.
        loaded.image.paste(grey, (0, first, *loaded.image.size))
        return dataclasses.replace(loaded, share=share)

    return dataclasses.replace(opened, load=load)


def _lacks_mark_alone(data: bytes) -> bool:
    """Whether all bits of all blocks are there, and nothing behind them.

    Bits that are missing make a difference, whatever libjpeg is given in their place; and so do the
    last bytes that are there, unless they belong to no block, as zeros that fill a cut file.
    """
    if not _has_all_scans(data):
        return False
    data = data.removesuffix(jpeg.END[:1])
    shorter = data[:-_LAST_BYTES].removesuffix(jpeg.END[:1])
    whole = _full_size(data + jpeg.END)
    return all(
        (whole == _full_size(data + some + jpeg.END)).all() for some in _MADE_UP[1:]
    ) and any((whole != _full_size(shorter + some + jpeg.END)).any() for some in _MADE_UP)


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans that begin give every coefficient of every component in full."""
    left: dict[int, set[int]] = {}
    at = 2
    while at >= 0 and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xFF:  # fills
            at += 1
            continue
        at += 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            left = {name: set(range(_COEFFICIENTS)) for name in body[6::3]}
        elif marker == 0xDA and len(body) >= 4:
            first, last, precision = body[-3:]
            for name in body[1 : 1 + 2 * body[0] : 2]:
                if not precision & 15:
                    left.get(name, set()).difference_update(range(first, last + 1))
            found = _NOT_IN_SCAN.search(data, at)
            at = found.start() if found else len(data)
    return bool(left) and not any(left.values())


def _full_size(data: bytes) -> np.ndarray:
    image = jpeg.open_pillow(data)
    image.load()
    return np.asarray(image)


def _share(data: bytes, need: Need, *, progressive: bool) -> float:
    """Of the rows, those that do not depend on what is missing.

    libjpeg makes up the bits that are missing. What comes out alike whichever it makes up is
    there. It stops in the row of blocks in which bits are missing, unless the file says that it
    ends: the rows before it are there for certain.
    """
    stopped = _reduced(data, need)
    width, height = stopped.size
    if progressive:  # each scan refines the whole image: all is there or nothing for certain
        ones = _ONES * (_BLOCK_BYTES * 4096)
        return float(_alike(data + jpeg.END, data + ones + jpeg.END, need, 0))
    rows = np.asarray(_decoded_until_it_stops(stopped, data))
    marker = np.array(_NOT_THERE[: rows.shape[2]] if rows.ndim == 3 else _NOT_THERE[0], rows.dtype)
    missing = (rows == marker).reshape(height, -1).all(axis=1)
    there = int(height - np.argmin(missing[::-1])) if missing.any() and not missing.all() else 0
    if not missing.any():
        return 1.0
    ones = _ONES * (_BLOCK_BYTES * (width + 64))
    last_row_of_blocks = height - there <= 32
    if last_row_of_blocks and _alike(data + jpeg.END, data + ones + jpeg.END, need, there):
        return 1.0
    return float(there / height)


def _reduced(data: bytes, need: Need) -> Any:
    """With its header read, at the scale that it will be seen at."""
    image = jpeg.open_pillow(data)
    image.draft(None, need(1))
    return image


def _decoded_until_it_stops(image: Any, data: bytes) -> Image.Image:
    """What libjpeg makes of the file as far as it goes; other rows are `_NOT_THERE`."""
    bands = len(image.getbands())
    colour = _NOT_THERE[:bands] if bands > 1 else _NOT_THERE[0]
    canvas = Image.new(image.mode, image.size, colour)
    _, extents, offset, args = image.tile[0]
    decoder = Image._getdecoder(image.mode, "jpeg", args, image.decoderconfig)
    try:
        decoder.setimage(canvas.im, extents)
        decoder.decode(data[offset:])
    finally:
        decoder.cleanup()
    return canvas


def _alike(one: bytes, other: bytes, need: Need, first: int) -> bool:
    """Whether two files have the same pixels from a row on."""
    pixels = []
    for data in (one, other):
        image = _reduced(data, need)
        image.load()
        pixels.append(np.asarray(image)[first:])
    return bool((pixels[0] == pixels[1]).all())
