"""Which bytes are images read here; the errors of those that are not. See `decoding`."""

from __future__ import annotations

from imagecensus.model_export.decoding.errors import ImageError, typed_error
from imagecensus.model_export.decoding.table import open_image

# Formats that Pillow opens for thumbnails and views.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")

__all__ = ["FORMATS", "ImageError", "open_image", "typed_error"]
