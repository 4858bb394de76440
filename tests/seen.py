"""What the decoding makes of bytes, as tests of formats look at it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from samples import photo

from imagecensus.model_export.preprocess import (
    ImageError,
    ImageInfo,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

configure_pillow()
SIZE = (64, 48)
SPEC = PreprocessSpec(height=48, width=64)


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decode(data: bytes, spec: PreprocessSpec = SPEC, **options) -> tuple[np.ndarray, ImageInfo]:
    """Pixels as int64 [height, width, channels], of which differences can be taken."""
    out = np.full(spec.shape, 77, np.uint8)
    info = decode_image(data, spec, out, **options)
    return out.astype(int), info


def status_of(data: bytes, spec: PreprocessSpec = SPEC) -> str:
    try:
        decode(data, spec)
    except ImageError as error:
        return error.status
    return "ok"


def smooth() -> Image.Image:
    """A photo without noise, of the size of SPEC."""
    return photo(3, (128, 96)).resize(SIZE)
