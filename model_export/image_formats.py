"""Which bytes are images read here, and Pillow's many exceptions as statuses of a row."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError

# Formats that photo archives hold. A short list on purpose: each decoder is attack surface, and
# Pillow's EPS plugin would start Ghostscript. ("JPEG" also opens MPO, first image.)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")

# Files that are images, in formats not read here: told apart from files that are no images.
_OTHER_IMAGE_MAGIC = {
    b"8BPS": "PSD", b"DDS ": "DDS", b"\x00\x00\x01\x00": "ICO", b"\x01\xda": "SGI",
    b"BLP1": "BLP", b"BLP2": "BLP", b"qoif": "QOI", b"%PDF": "PDF", b"%!PS": "EPS",
    b"SIMPLE  =": "FITS", b"/* XPM": "XPM", b"\xd7\xcd\xc6\x9a": "WMF", b"icns": "ICNS",
    b"<svg": "SVG", b"gimp xcf": "XCF", b"\x59\xa6\x6a\x95": "SUN", b"v/1\x01": "EXR",
    b"DanM": "MSP", b"LinS": "MSP", b"\xb1\x68\xde\x3a": "DCX", b"#define": "XBM",
    b"P7\n": "PAM", b"Pf\n": "PFM", b"PF\n": "PFM", b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
}  # fmt: skip
# Starts of formats that are read here: when Pillow refuses the header, the file is damaged.
_FORMAT_MAGIC = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n": "PNG", b"GIF8": "GIF", b"RIFF": "WEBP",
    b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"BM": "BMP", b"\xff\x4f\xff\x51": "JPEG2000",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
}  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


class ImageError(Exception):
    """One image cannot be used. `status` is a value of `imagecensus.transforms.records.Status`."""

    def __init__(self, status: str, message: str, image_format: str | None = None):
        super().__init__(message)
        self.status = status
        self.image_format = image_format


def open_image(data: bytes) -> Image.Image:
    """The image with its header read and no pixel decoded.

    Raises:
      ImageError: unsupported_format, decode_error (a damaged header) or not_an_image.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        other = _other_format(data)
        if other:
            raise ImageError(
                "unsupported_format", f"{other} is not a format read here", other
            ) from None
        for magic, name in _FORMAT_MAGIC.items():
            if data.startswith(magic):
                raise ImageError("decode_error", f"the {name} header is damaged", name) from None
        raise ImageError(
            "not_an_image", f"no known image format; starts with {bytes(data[:16])!r}"
        ) from None


def _other_format(data: bytes) -> str | None:
    head = bytes(data[:64])
    for magic, name in _OTHER_IMAGE_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIF"
    if b"<svg" in bytes(data[:1024]).lower():
        return "SVG"
    return None


def typed_error(error: Exception, image_format: str | None) -> ImageError:
    """Pillow's many exceptions as ours."""
    text = str(error) or type(error).__name__
    lowered = text.lower()
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_large", text, image_format)
    if isinstance(error, MemoryError):
        return ImageError("too_large", "not enough memory to decode", image_format)
    if "truncated" in lowered or "unexpected end" in lowered or "eof" in lowered:
        return ImageError("truncated", text, image_format)
    if isinstance(error, NotImplementedError) or "unsupported" in lowered:
        return ImageError("unsupported_format", text, image_format)
    if isinstance(error, (struct.error, zlib.error, EOFError)):
        return ImageError("truncated", text, image_format)
    return ImageError("decode_error", f"{type(error).__name__}: {text}", image_format)
