"""Which bytes are images read here; the errors of those that are not. See `decoding`."""

from __future__ import annotations

from imagecensus.model_export.decoding.errors import ImageError, typed_error
from imagecensus.model_export.decoding.table import open_image

__all__ = ["ImageError", "open_image", "typed_error"]
