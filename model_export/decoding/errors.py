"""Why an image cannot be used, and the many exceptions of decoders as statuses of a row."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

_CUT = (
    "truncated", "unexpected end", "eof", "need_more_input", "returned read_error",
    "bytes of pixel data is less than expected", "not enough image data",
)  # fmt: skip
UNDECODED = "cannot be decoded: "
EXTRA = "pip install 'imagecensus[formats]'"


class ImageError(Exception):
    """One image cannot be used. `status` is a value of `imagecensus.transforms.records.Status`."""

    def __init__(self, status: str, message: str, image_format: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.image_format = image_format


def unsupported(image_format: str, what: str = "") -> ImageError:
    """The error of a file that is a whole `image_format`, but of a kind that is not read."""
    text = f"{image_format} is not a format read here"
    return ImageError("unsupported_format", what or text, image_format)


def needs_extra(image_format: str, what: str = "") -> ImageError:
    """The error of a file that the extra `formats`, which is not installed, would read."""
    return ImageError(
        "unsupported_format", f"{what or image_format} is read after {EXTRA}", image_format
    )


def too_many_bytes(size: int, limit: int) -> ImageError:
    return ImageError("too_large", f"{size:,} bytes, limit {limit:,} (raise it with --max-bytes)")


def truncated(image_format: str, what: str) -> ImageError:
    return ImageError("truncated", f"the {image_format} file ends too early: {what}", image_format)


def typed_error(error: Exception, image_format: str | None) -> ImageError:
    """A decoder's exception as ours."""
    text = str(error) or type(error).__name__
    lowered = text.lower()
    if isinstance(error, ImageError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_large", text, image_format)
    if isinstance(error, MemoryError):
        return ImageError("too_large", "not enough memory to decode", image_format)
    if isinstance(error, ModuleNotFoundError):
        return needs_extra(image_format or "the file", f"{image_format} of this kind")
    if isinstance(error, struct.error):  # its own text is about Python's buffers
        return truncated(image_format or "image", "a part of it lies behind its end")
    if any(word in lowered for word in _CUT):
        return truncated(image_format or "image", text)
    if isinstance(error, NotImplementedError) or "unsupported" in lowered:
        return ImageError("unsupported_format", text, image_format)
    if isinstance(error, (zlib.error, EOFError)):
        return truncated(image_format or "image", text)
    said = text if " " in text else f"{type(error).__name__} {text}"
    message = f"the {image_format or 'image'} file {UNDECODED}{said}"
    return ImageError("decode_error", message, image_format)
