"""JPEG XL as it was written."""

import numpy as np
import pytest
from samples import photo
from seen import SIZE, decode

from imagecensus.model_export.preprocess import (
    ImageError,
)


def test_jpeg_xl_as_it_was_written():
    imagecodecs = pytest.importorskip("imagecodecs")
    for size in (SIZE, (256, 256), (37, 11), (1000, 40)):
        pixels = np.asarray(photo(2, size))
        data = imagecodecs.jpegxl_encode(pixels, lossless=True)
        _, info = decode(data)
        assert (info.width, info.height) == size
    out, _ = decode(imagecodecs.jpegxl_encode(np.asarray(photo(2)), lossless=True))
    np.testing.assert_array_equal(out, np.asarray(photo(2)))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    import sys

    imagecodecs = pytest.importorskip("imagecodecs")
    data = imagecodecs.jpegxl_encode(np.asarray(photo(2)))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"imagecensus\[formats\]") as caught:
        decode(data)
    assert caught.value.status == "unsupported_format"
