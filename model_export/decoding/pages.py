"""One page of a file with several, as bytes of their own: what every reader of bytes then sees.

Pages are counted from 1, and a file's page 1 is what is seen of it where no page is asked for,
unless that is a reduced version or a default image.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from imagecensus.model_export.decoding.readers import dicom, heif, pdf, tiff_tags
from imagecensus.model_export.decoding.signatures import identify

_MARK = b"imagecensus:page\x00"
_NUMBER = 4
_START = len(_MARK) + _NUMBER
_ANIMATED = {"GIF": "GIF", "WEBP": "WEBP", "AVIF": "AVIF", "PNG": "PNG"}
SUFFIXES = frozenset(
    ("tif", "tiff", "btf", "gif", "webp", "png", "apng", "avif", "avifs", "heic", "heif", "hif")
    + ("heics", "heifs", "dcm", "dicom", "pdf")
)


def select(file: bytes, number: int) -> bytes:
    """The page as bytes that `preprocess.decode_image` takes."""
    return _MARK + number.to_bytes(_NUMBER, "big") + file


def split(data: bytes) -> tuple[bytes, int]:
    """(the file, the page that is asked for, or 0 where none is)."""
    if not data.startswith(_MARK):
        return data, 0
    return data[_START:], int.from_bytes(data[len(_MARK) : _START], "big")


def size_of(data: bytes) -> int:
    """Bytes of the file."""
    return len(data) - (_START if data.startswith(_MARK) else 0)


def count(file: bytes) -> int:
    """Pages or frames that can be asked for; 1 where it is of no such format, or damaged."""
    name = identify(file)
    try:
        if name == "TIFF":
            tiff = tiff_tags.read_tiff(file)
            return 1 if tiff.is_raw else len(tiff.full_pages)
        if name == "HEIF":
            return heif.count_images(file)
        if name == "DICOM":
            return dicom.count_frames(file)
        if name == "PDF":
            return pdf.count_pages(file)
        if name in _ANIMATED and (name != "PNG" or b"acTL" in file[:4096]):
            image: Any = Image.open(io.BytesIO(file), formats=(_ANIMATED[name],))
            return int(getattr(image, "n_frames", 1))
    except Exception:  # its row will say so
        return 1
    return 1
