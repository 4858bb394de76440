"""JPEG 2000: depths, signs and levels."""

import numpy as np
import pytest
from samples import photo
from seen import decode, encode, smooth

from imagecensus.model_export.preprocess import (
    PreprocessSpec,
)


def test_jpeg_2000_of_more_than_eight_bits_in_colour_and_with_alpha():
    imagecodecs = pytest.importorskip("imagecodecs")
    rgb = np.asarray(smooth()).astype(np.uint16)
    alpha = np.full((*rgb.shape[:2], 1), 255, np.uint16)
    for samples, bits in ((rgb * 257, 16), (rgb << 4, 12), (np.dstack([rgb, alpha]) * 257, 16)):
        for decoding in (1, 2):
            data = imagecodecs.jpeg2k_encode(samples, bitspersample=bits, level=0)
            out, _ = decode(data, PreprocessSpec(height=48, width=64, decoding=decoding))
            assert np.abs(out - rgb).max() <= 1


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_2000_of_signed_samples(bits):
    """Black is the least number that so many bits hold; of 16, the least that is there."""
    imagecodecs = pytest.importorskip("imagecodecs")
    rgb = np.asarray(smooth()).astype(np.int32)
    rgb[0, :2] = [[0] * 3, [255] * 3]
    for levels in (rgb, rgb[..., 0]):
        samples = (levels << (bits - 8)) - (1 << (bits - 1))
        kind = np.int8 if bits == 8 else np.int16
        data = imagecodecs.jpeg2k_encode(
            samples.astype(kind), bitspersample=bits, level=0, codecformat="J2K"
        )
        out, info = decode(data)
        assert np.abs(out - (levels if levels.ndim == 3 else levels[..., None])).max() <= 1
        assert info.depth_scaled == (bits == 16)


def test_jpeg_2000_is_decoded_by_level():
    data = encode(photo(5, (1600, 1200)), "JPEG2000")
    fast, info = decode(data)
    whole, _ = decode(data, PreprocessSpec(height=48, width=64, dct_margin=0))
    assert 0 < np.abs(fast - whole).mean() < 6
    assert (info.width, info.height) == (1600, 1200)
