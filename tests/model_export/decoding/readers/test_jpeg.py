"""JPEG of 12 bits and without loss."""

import numpy as np
import pytest
from PIL import Image
from samples import photo
from seen import decode, encode, smooth

from imagecensus.model_export.preprocess import (
    PreprocessSpec,
)


def test_lossless_jpeg_is_never_scaled():
    imagecodecs = pytest.importorskip("imagecodecs")
    large = np.asarray(photo(2, (1200, 1000)))
    for pixels in (large, large[..., 0].copy()):
        data = imagecodecs.jpeg_encode(pixels, lossless=True)
        for decoding in (1, 2):
            spec = PreprocessSpec(height=48, width=64, decoding=decoding)
            out, info = decode(data, spec)
            image = Image.fromarray(pixels)
            expected, _ = decode(encode(image, "PNG"), spec)
            np.testing.assert_array_equal(out, expected)
            assert (info.width, info.height) == (1200, 1000)


def test_twelve_bit_jpeg():
    imagecodecs = pytest.importorskip("imagecodecs")
    samples = np.asarray(smooth().convert("L")).astype(np.uint16) << 4
    data = imagecodecs.jpeg_encode(samples, level=95, bitspersample=12)
    out, _ = decode(data)
    assert np.abs(out[..., 0] - (samples >> 4)).mean() < 3
