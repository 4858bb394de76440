"""Small pictures for people to look at, made from untrusted files.

A thumbnail is pixels only: the file is decoded by the job's own decoder and the pixels are
encoded anew, so that nothing else of the file (EXIF text, profiles, trailing bytes) reaches a
page.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from model_export.preprocess import (
    FORMATS,
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)
from transforms.read_images import read_image

MAX_FILE_BYTES = 64 * 2**20
THREADS = 4
_ORIENTATION_TAG = 0x0112


def make_thumbnail(uri: str, side: int) -> bytes:
    """A JPEG of `side` x `side` pixels, the centre of the picture.

    Raises:
      ImageError: the picture cannot be read, is over MAX_FILE_BYTES, or cannot be decoded.
    """
    configure_pillow()
    spec = PreprocessSpec(height=side, width=side, crop="center")
    pixels = np.empty(spec.shape, np.uint8)
    decode_image(read_image(uri, max_bytes=MAX_FILE_BYTES), spec, pixels)
    return _jpeg(pixels)


def make_thumbnails(uris: list[str], side: int) -> dict[str, bytes]:
    """The thumbnails of those pictures that can be read."""

    def attempt(uri):
        try:
            return make_thumbnail(uri, side)
        except ImageError:
            return None

    uris = list(dict.fromkeys(uris))
    with ThreadPoolExecutor(THREADS) as pool:
        made = zip(uris, pool.map(attempt, uris), strict=True)
        return {uri: thumbnail for uri, thumbnail in made if thumbnail}


def make_view(uri: str, longest: int) -> bytes:
    """A JPEG of the whole picture, its longer side at most `longest` pixels. Raises ImageError."""
    configure_pillow()
    data = read_image(uri, max_bytes=MAX_FILE_BYTES)
    width, height = _upright_size(data)
    scale = min(longest / max(width, height), 1.0)
    width, height = max(round(width * scale), 1), max(round(height * scale), 1)
    pixels = np.empty((height, width, 3), np.uint8)
    decode_image(data, PreprocessSpec(height=height, width=width), pixels)
    return _jpeg(pixels)


def _upright_size(data: bytes) -> tuple[int, int]:
    """Width and height as shown, after EXIF orientation. Raises ImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:
        raise ImageError("decode_error", str(error)) from None
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
