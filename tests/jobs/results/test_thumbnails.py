"""What people look at: every format that the job reads, upright."""

import io

import numpy as np
import pytest
from PIL import Image
from samples import photo

from imagecensus.jobs.results.thumbnails import make_thumbnail, make_view


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


def test_views_of_formats_of_the_extra():
    codecs = pytest.importorskip("imagecodecs")
    data = codecs.jpegxl_encode(np.asarray(photo(4, (128, 64))))
    assert Image.open(io.BytesIO(make_view(data, 100))).size == (100, 50)
