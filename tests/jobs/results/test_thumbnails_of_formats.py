"""Report and browse show every format that is read."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from samples import photo

from imagecensus.jobs.results.thumbnails import make_thumbnail, make_view
from imagecensus.model_export.decoding import pages

HEIC = pathlib.Path(__file__).parents[2] / "data" / "heic"


def files() -> dict[str, bytes]:
    codecs = pytest.importorskip("imagecodecs")
    pixels = np.asarray(photo(3, (128, 96)))
    found = {
        "JPEG XL": codecs.jpegxl_encode(pixels),
        "JPEG-LS": codecs.jpegls_encode(pixels),
        "12-bit JPEG": codecs.jpeg_encode(pixels.astype(np.uint16) << 4, bitspersample=12),
        "HDR": codecs.rgbe_encode((pixels / np.float32(255)) ** 2.2),
        "HEIC": (HEIC / "orientation-6.heic").read_bytes(),
    }
    frames = [photo(9), photo(3, (128, 96)).resize((64, 48))]
    for kind in ("TIFF", "GIF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        found[f"page of {kind}"] = pages.select(buffer.getvalue(), 2)
    return found


def test_thumbnails_and_large_views_are_the_image():
    expected = photo(3, (128, 96)).resize((64, 48))
    for name, data in files().items():
        view = Image.open(io.BytesIO(make_view(data, 1200)))
        assert view.width / view.height == pytest.approx(4 / 3, abs=0.03), name
        there = np.asarray(view.resize((64, 48))).astype(int)
        assert np.abs(there - np.asarray(expected)).mean() < 15, name
        assert Image.open(io.BytesIO(make_thumbnail(data, 32))).size == (32, 32)
