"""JPEG XL, by imagecodecs; it gives size and orientation only with pixels: they are read here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.errors import ImageError, needs_extra
from imagecensus.model_export.decoding.metadata import exif_of
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers.jpeg_xl_profile import read_profile

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIZES = (9, 13, 18, 30)


def open_jpeg_xl(data: bytes) -> Opened:
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra("JPEG XL") from None
    try:
        width, height, orientation = read_header(data)
    except (ValueError, IndexError):
        raise ImageError("decode_error", "the JPEG XL header is damaged", "JPEG XL") from None

    def load(need: Need) -> LoadedImage:
        samples = imagecodecs.jpegxl_decode(data, keeporientation=True)
        if samples.ndim == 4:
            samples = samples[0]
        colours = 3 if samples.ndim == 3 and samples.shape[2] >= 3 else 1
        stated = (0.0, 255.0) if samples.dtype == np.uint8 else None
        pixels, scaled = depth.to_eight_bits(samples, stated, colours=colours)
        return LoadedImage(
            image=from_pixels(pixels, colours),
            orientation=orientation,
            icc=read_profile(data),
            exif=exif_of(read_exif(data)),
            depth_scaled=scaled,
        )

    return Opened(format="JPEG XL", width=width, height=height, load=load)


def read_header(data: bytes) -> tuple[int, int, int]:
    """(width, height as stored, orientation). Raises ValueError, IndexError."""
    bits = _Bits(_codestream(data)[:64])
    if bits.take(16) != 0x0AFF:
        raise ValueError
    small = bits.take(1)
    height = (bits.take(5) + 1) * 8 if small else bits.take(_SIZES[bits.take(2)]) + 1
    ratio = bits.take(3)
    if ratio:
        across, down = _RATIOS[ratio]
        width = height * across // down
    else:
        width = (bits.take(5) + 1) * 8 if small else bits.take(_SIZES[bits.take(2)]) + 1
    plain = bits.take(1)
    extra = not plain and bits.take(1)
    return width, height, bits.take(3) + 1 if extra else 1


def read_exif(data: bytes) -> bytes | None:
    """EXIF without its four bytes of offset, or None."""
    found = next((body for kind, body in _boxes(data) if kind == b"Exif"), None)
    return found[4:] if found else None


def _codestream(data: bytes) -> bytes:
    if data[:2] == b"\xff\x0a":
        return data
    for kind, body in _boxes(data):
        if kind == b"jxlc":
            return body
        if kind == b"jxlp":
            return body[4:]
    raise ValueError


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if data[:2] == b"\xff\x0a":
        return
    at = 0
    while at + 8 <= len(data):
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + size if size else len(data)
        yield bytes(data[at + 4 : at + 8]), data[at + head : end]
        at = max(end, at + 8)


class _Bits:
    """Bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), len(data) * 8

    def take(self, count: int) -> int:
        if count > self._left:
            raise IndexError
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return value
