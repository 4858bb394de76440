"""What people look at: every format that the job reads, upright."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from samples import photo

from imagecensus.jobs.results.thumbnails import make_thumbnail, make_view
from imagecensus.model_export.decoding import pages

HEIC = pathlib.Path(__file__).parents[2] / "data" / "heic"


def files():
    """(name, bytes): 128 x 64, stored upright or lying with a tag that says so."""
    image = photo(4, (128, 64))
    lying = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6

    def encode(image, kind, **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        yield f"{kind} lying", encode(lying, kind, exif=exif)
    for kind in ("BMP", "TGA", "PCX", "JPEG2000", "QOI"):
        yield kind, encode(image, kind)


@pytest.mark.parametrize(
    ("name", "data"), [*files()], ids=lambda v: v if isinstance(v, str) else ""
)
def test_views_of_every_format_are_upright(name, data):
    view = Image.open(io.BytesIO(make_view(data, 100)))
    assert view.size == (100, 50)
    expected = np.asarray(photo(4, (128, 64)).resize((100, 50))).astype(int)
    assert np.abs(np.asarray(view).astype(int) - expected).mean() < 12
    assert Image.open(io.BytesIO(make_thumbnail(data, 32))).size == (32, 32)


def more_files() -> dict[str, bytes]:
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
    for name, data in more_files().items():
        view = Image.open(io.BytesIO(make_view(data, 1200)))
        assert view.width / view.height == pytest.approx(4 / 3, abs=0.03), name
        there = np.asarray(view.resize((64, 48))).astype(int)
        assert np.abs(there - np.asarray(expected)).mean() < 15, name
        assert Image.open(io.BytesIO(make_thumbnail(data, 32))).size == (32, 32)
