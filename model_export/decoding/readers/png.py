"""PNG, by Pillow, also where its texts or profile unpack to more than Pillow's limits."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened
from imagecensus.model_export.decoding.readers.pillow_reader import (
    describe,
    fill_depth,
    open_with_pillow,
    read_both_bytes,
)

_MAX_ICC = 16 << 20


def open_png(data: bytes) -> Opened:
    """PNG, also where its texts or profile unpack to more than Pillow's limits."""
    try:
        image, bulky = _header(data), False
    except ValueError:
        image, bulky = _header(data, True), True
    size, bits = image.size, data[24]

    def load(need: Need) -> LoadedImage:
        nonlocal image, bulky
        try:
            image.load()
        except ValueError as error:
            if "too large" not in str(error):
                raise
            image, bulky = _header(data, True), True
            image.load()
        check_sums(data)
        if bulky:
            image.info.setdefault("icc_profile", _profile(data))
        # Of 16 bits Pillow compares the half of each sample with the colour that is transparent.
        clear = image.info.pop("transparency", None) if bits == 16 else None
        loaded = describe(image)
        if bits == 16 and not image.mode.startswith("I"):
            fill_depth(loaded, image, lambda: _header(data, bulky))
        if clear is not None:
            samples = np.asarray(image)
            if samples.ndim == 3:
                samples = read_both_bytes(lambda: _header(data, bulky))
            there = (samples == clear) if samples.ndim == 2 else (samples == clear).all(2)
            loaded.image.paste("white", mask=Image.fromarray(there))
        return loaded

    return Opened(format="PNG", width=size[0], height=size[1], load=load)


def _header(data: bytes, bulky: bool = False) -> Image.Image:
    return open_with_pillow(_without_texts(data) if bulky else data, "PNG")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk of a PNG."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield bytes(data[at + 4 : at + 8]), at, at + 12 + size
        at += 12 + size


def check_sums(data: bytes) -> None:
    """Raises ImageError where pixels' checksums are wrong: Pillow looks at those of the rest."""
    view = memoryview(data)
    for kind, start, end in _chunks(data):
        if kind == b"IDAT" and end <= len(data):
            stated = int.from_bytes(data[end - 4 : end], "big")
            if zlib.crc32(view[start + 4 : end - 4]) != stated:
                raise ImageError("decode_error", "the PNG is damaged: a checksum is wrong", "PNG")


def _without_texts(data: bytes) -> bytes:
    kept = [data[:8]]
    kept += [
        data[start:end]
        for kind, start, end in _chunks(data)
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
    ]
    return b"".join(kept)


def _profile(data: bytes) -> bytes | None:
    for kind, start, end in _chunks(data):
        if kind == b"iCCP":
            packed = data[start + 8 : end - 4].partition(b"\x00")[2][1:]
            try:
                return zlib.decompressobj().decompress(packed, _MAX_ICC)
            except zlib.error:
                return None
    return None
