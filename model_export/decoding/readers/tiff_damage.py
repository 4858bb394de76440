"""Whether the data of a TIFF is all there: libtiff makes up what is not, and goes on."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import zlib
from collections.abc import Iterator

from imagecensus.model_export.decoding.errors import ImageError, truncated
from imagecensus.model_export.decoding.readers import png, tiff_tags
from imagecensus.model_export.decoding.readers.tiff_tags import Page

_JPEG, _GROUP4, _UNCOMPRESSED, _DEFLATE = 7, 4, 1, (8, 32946)
PNG = 34933
_INFLATED_AT_ONCE = 1 << 20
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_said = threading.local()  # what libtiff said to this thread


def _note_error(module: bytes, text: bytes, _: int) -> None:
    if getattr(_said, "errors", None) is not None:
        _said.errors.append((module or b"libtiff").decode("latin-1"))


_on_error = _HANDLER(_note_error)


@functools.cache
def listen_to_libtiff() -> None:
    """libtiff goes on after damage, and says so to a handler only: the rows say that it does."""
    with contextlib.suppress(OSError, AttributeError), open("/proc/self/maps") as maps:
        for path in {line.split()[-1] for line in maps if "/libtiff" in line}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(_on_error)
            library.TIFFSetWarningHandler(None)


@contextlib.contextmanager
def damage_raised() -> Iterator[None]:
    """Raises ImageError after the block where libtiff found damage in it."""
    _said.errors = []
    try:
        yield
        if _said.errors:
            raise ImageError("decode_error", f"{_said.errors[0]}: damaged data", "TIFF")
    finally:
        _said.errors = None


def check_data(data: bytes, page: Page) -> None:
    """Raises ImageError where strips or tiles lie outside of the file or end too early."""
    tiled = 324 in page.tags
    places = page.tags.get(324 if tiled else 273, ())
    sizes = page.tags.get(325 if tiled else 279, ())
    if not places:
        raise ImageError("decode_error", "the TIFF page names no data", "TIFF")
    compression = page.get(tiff_tags.COMPRESSION, 1)
    if compression == _UNCOMPRESSED and not tiled:
        first, last = _strip_sizes(page, len(places))
        if places[-1] + last > len(data):
            raise truncated("TIFF", "its last strip is cut")
        if sizes and 0 < sizes[0] < first and len(places) > 1:
            raise ImageError(
                "decode_error", "the strips of the TIFF lack some of their rows", "TIFF"
            )
        return
    for place, size in zip(places, sizes, strict=False):
        if size and place + size > len(data):
            raise truncated("TIFF", "a strip or tile is cut")
        if compression == _GROUP4 and size and not _ends_group4(data, place + size, page):
            raise truncated("TIFF", "a strip of fax group 4 lacks its end")
        # libtiff makes up what a JPEG lacks, without an error.
        end = data[max(place, place + size - 64) : place + size]
        if compression == _JPEG and size and b"\xff\xd9" not in end:
            raise truncated("TIFF", "a JPEG strip or tile is cut")


def check_sums(data: bytes, page: Page) -> None:
    """Raises ImageError where deflated data has another checksum: its decoders look at none."""
    compression = page.get(tiff_tags.COMPRESSION, 1)
    if compression not in (*_DEFLATE, PNG):
        return
    tiled = 324 in page.tags
    places = page.tags.get(324 if tiled else 273, ())
    for place, size in zip(places, page.tags.get(325 if tiled else 279, ()), strict=False):
        inflater, rest = zlib.decompressobj(), data[place : place + size]
        if compression == PNG:
            png.check_sums(rest)
            continue
        while rest and not inflater.eof:
            try:
                inflater.decompress(rest, _INFLATED_AT_ONCE)
            except zlib.error as error:
                if "incorrect data check" in str(error):
                    raise ImageError("decode_error", "a checksum is wrong", "TIFF") from None
                return  # its decoder knows what to do, or not
            rest = inflater.unconsumed_tail


def _ends_group4(data: bytes, end: int, page: Page) -> bool:
    """Whether the mark is there that ends group 4: libtiff makes up the lines that are missing."""
    last = data[max(end - 64, 0) : end].rstrip(b"\x00")[-8:]
    bits = "".join(f"{byte:08b}" for byte in last)
    if page.get(266, 1) == 2:
        bits = "".join(f"{byte:08b}"[::-1] for byte in last)
    return ("0" * 11 + "1") * 2 in bits


def _strip_sizes(page: Page, strips: int) -> tuple[int, int]:
    """Bytes of the first and of the last strip of an uncompressed page."""
    width, height = page.size
    bits = page.tags.get(tiff_tags.BITS, (1,))
    planes = page.get(tiff_tags.PLANAR, 1) == 2
    samples = 1 if planes else page.get(tiff_tags.SAMPLES, 1)
    per_plane = max(strips // (page.get(tiff_tags.SAMPLES, 1) if planes else 1), 1)
    rows = min(page.get(tiff_tags.ROWS, height) or height, height)
    last = height - rows * (per_plane - 1)
    row = (width * samples * int(bits[0]) + 7) // 8
    if page.get(tiff_tags.PHOTOMETRIC) == 6:  # subsampled: its decoder counts
        return 1, 1
    # More strips than rows need: either number is wrong, and the bytes of the strips show which.
    return (row * rows, 1) if last <= 0 else (1, row * last)
