"""The colour profile of a JPEG XL, by the libjxl of imagecodecs, which gives pixels only."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

_COLOR_ENCODING = 0x100  # an event of the decoder
_DATA = 1  # the profile of the pixels that the decoder gives, not that of the original
_IS_SRGB = {(0, 1, 1, 13), (1, 1, None, 13)}  # space, white point, primaries, curve: RGB and grey


class _Encoding(ctypes.Structure):
    """JxlColorEncoding."""

    _fields_ = (
        ("space", ctypes.c_int),
        ("white_point", ctypes.c_int),
        ("white", ctypes.c_double * 2),
        ("primaries", ctypes.c_int),
        ("red_green_blue", ctypes.c_double * 6),
        ("curve", ctypes.c_int),
        ("gamma", ctypes.c_double),
        ("intent", ctypes.c_int),
    )


def read_profile(data: bytes) -> bytes | None:
    """The ICC profile of the pixels that are decoded; None: they are sRGB, or it is not stated."""
    lib = _libjxl()
    if lib is None:
        return None
    with _at_colours(lib, data) as decoder:
        encoding = _Encoding()
        if lib.JxlDecoderGetColorAsEncodedProfile(decoder, _DATA, ctypes.byref(encoding)) == 0:
            primaries = encoding.primaries if encoding.space == 0 else None
            said = (encoding.space, encoding.white_point, primaries, encoding.curve)
            if said in _IS_SRGB:
                return None
        size = ctypes.c_size_t()
        if lib.JxlDecoderGetICCProfileSize(decoder, _DATA, ctypes.byref(size)):
            return None
        profile = ctypes.create_string_buffer(size.value)
        if lib.JxlDecoderGetColorAsICCProfile(decoder, _DATA, profile, size):
            return None
        return profile.raw


@contextlib.contextmanager
def _at_colours(lib: Any, data: bytes) -> Iterator[ctypes.c_void_p]:
    """A decoder that has read the header, or could not."""
    decoder = ctypes.c_void_p(lib.JxlDecoderCreate(None))
    try:
        lib.JxlDecoderSubscribeEvents(decoder, _COLOR_ENCODING)
        lib.JxlDecoderSetInput(decoder, data, ctypes.c_size_t(len(data)))
        lib.JxlDecoderCloseInput(decoder)
        lib.JxlDecoderProcessInput(decoder)
        yield decoder
    finally:
        lib.JxlDecoderReleaseInput(decoder)
        lib.JxlDecoderDestroy(decoder)


@functools.cache
def _libjxl() -> Any:
    """The functions of libjxl, found behind imagecodecs' module; None: it does not show them."""
    try:
        from imagecodecs import _jpegxl

        lib = ctypes.CDLL(_jpegxl.__file__)
        lib.JxlDecoderCreate.restype = ctypes.c_void_p
        _ = lib.JxlDecoderGetColorAsEncodedProfile, lib.JxlDecoderGetColorAsICCProfile
        return lib
    except (ImportError, OSError, AttributeError):
        return None
