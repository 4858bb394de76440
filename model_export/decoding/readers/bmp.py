"""BMP, by Pillow but for colours by masks of any kind and runs of 4 bits, which are read here."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable

import numpy as np

from imagecensus.model_export.decoding.depth import Pixels
from imagecensus.model_export.decoding.errors import ImageError, truncated, unsupported
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers.pillow_reader import levels_of_mask, open_plain

_RUNS_OF_4, _MASKS, _MASKS_WITH_ALPHA = 2, 3, 6
_INFO_HEADER, _MASKS_IN_HEADER, _ALPHA_IN_HEADER = 40, 52, 56  # its size, from which they are


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Header:
    size: int
    width: int
    height: int
    upside_down: bool  # the last row comes first, as is usual
    bits: int
    packing: int
    pixels_at: int


def open_bmp(data: bytes) -> Opened:
    """Raises ImageError."""
    header = _read_header(data)
    if header and header.packing == _RUNS_OF_4:
        return _opened(header, lambda: _by_palette(data, header))
    if header and header.packing in (_MASKS, _MASKS_WITH_ALPHA) and header.bits in (16, 32):
        return _opened(header, lambda: _by_masks(data, header))
    try:
        return open_plain(data, "BMP")
    except ImageError:
        if len(data) < 54:
            raise
        raise unsupported("BMP", "BMP of this kind is not read here") from None


def _read_header(data: bytes) -> _Header | None:
    """None where the header is another than Windows has written since 3.0."""
    if len(data) < 54:
        return None
    pixels_at, size, width, height = struct.unpack_from("<2I2i", data, 10)
    bits, packing = struct.unpack_from("<HI", data, 28)
    if size < _INFO_HEADER or width <= 0 or not height:
        return None
    return _Header(
        size=size, width=width, height=abs(height), upside_down=height > 0, bits=bits,
        packing=packing, pixels_at=pixels_at,
    )  # fmt: skip


def _opened(header: _Header, read: Callable[[], Pixels]) -> Opened:
    def load(need: Need) -> LoadedImage:
        rows = read()
        return LoadedImage(image=from_pixels(rows[::-1] if header.upside_down else rows, 3))

    return Opened(format="BMP", width=header.width, height=header.height, load=load)


def _by_masks(data: bytes, header: _Header) -> Pixels:
    """uint8 [H, W, 3 or 4], the first row first that the file has first."""
    has_alpha = header.size >= _ALPHA_IN_HEADER or header.packing == _MASKS_WITH_ALPHA
    masks = struct.unpack_from("<4I" if has_alpha else "<3I", data, 14 + _INFO_HEADER)
    row = (header.width * header.bits + 31) // 32 * 4
    content = np.frombuffer(data, np.uint8, offset=min(header.pixels_at, len(data)))
    if content.size < row * header.height:
        raise truncated("BMP", "its pixels are cut")
    rows = content[: row * header.height].reshape(header.height, row)
    values = rows.view(f"<u{header.bits // 8}")[:, : header.width].astype(np.uint32)
    masks = masks if masks[-1] else masks[:3]
    return np.stack([levels_of_mask(values, mask) for mask in masks], -1)


def _by_palette(data: bytes, header: _Header) -> Pixels:
    """uint8 [H, W, 3], the first row first that the file has first."""
    count = struct.unpack_from("<I", data, 46)[0] or 16
    at = 14 + header.size
    table = np.zeros((16, 3), np.uint8)
    stored = np.frombuffer(data[at : at + 4 * min(count, 16)], np.uint8)
    table[: stored.size // 4] = stored[: stored.size // 4 * 4].reshape(-1, 4)[:, 2::-1]
    return table[_unpack_runs(data, header)]


def _unpack_runs(data: bytes, header: _Header) -> Pixels:
    """Indexes [H, W]; 0 where the file jumps over pixels."""
    out = np.zeros((header.height, header.width), np.uint8)
    at, x, y = header.pixels_at, 0, 0
    while at + 2 <= len(data):
        count, value = data[at], data[at + 1]
        at += 2
        if count == 0 and value == 1:
            return out
        if count == 0 and value == 0:
            x, y = 0, y + 1
            continue
        if count == 0 and value == 2 and at + 2 <= len(data):
            x, y = x + data[at], y + data[at + 1]
            at += 2
            continue
        if count == 0 and value == 2:
            break
        if count:
            pair = np.array([value >> 4, value & 15], np.uint8)
            run = np.resize(pair, count)
        else:
            size = (value + 1) // 2
            packed = np.frombuffer(data[at : at + size], np.uint8)
            run = np.stack([packed >> 4, packed & 15], -1).ravel()[:value]
            at += size + size % 2
        if y >= header.height or x >= header.width:
            raise ImageError("decode_error", "the runs of the BMP leave the image", "BMP")
        run = run[: header.width - x]
        out[y, x : x + run.size] = run
        x += run.size
    raise truncated("BMP", "its runs have no end")
