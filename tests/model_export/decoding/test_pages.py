"""Pages and frames as images of their own."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from samples import photo
from seen import decode

from imagecensus.model_export.decoding import pages
from imagecensus.model_export.preprocess import ImageError, PreprocessSpec, decode_image

IMAGES = [photo(seed) for seed in range(4)]


def several(kind, **options) -> bytes:
    buffer = io.BytesIO()
    IMAGES[0].save(buffer, kind, save_all=True, append_images=IMAGES[1:], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("decoding", [1, 2])
@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        ("TIFF", {}, 0), ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 8), ("GIF", {}, 20), ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0), ("AVIF", {"quality": 95}, 8),
    ],
)  # fmt: skip
def test_each_page_is_the_image_that_was_written(kind, options, most, decoding):
    data = several(kind, **options)
    assert pages.count(data) == 4
    spec = PreprocessSpec(height=48, width=64, decoding=decoding)
    for number, image in enumerate(IMAGES, 1):
        out = np.empty(spec.shape, np.uint8)
        info = decode_image(pages.select(data, number), spec, out)
        assert np.abs(out - np.asarray(image).astype(int)).mean() <= most
        assert (info.format, info.pages, info.width) == (kind, 1, 64)
    whole, info = decode(data, spec)
    assert np.abs(whole - np.asarray(IMAGES[0])).mean() <= most
    assert info.pages == 4 or decoding == 1
    for number in (5, 999):
        with pytest.raises(ImageError) as caught:
            decode(pages.select(data, number))
        assert caught.value.status in ("decode_error", "truncated")


def test_reduced_pages_are_none():
    tifffile, buffer = pytest.importorskip("tifffile"), io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for number, image in enumerate(IMAGES):
            writer.write(np.asarray(image), photometric="rgb")
            if number == 1:
                writer.write(np.asarray(image)[::2, ::2], photometric="rgb", subfiletype=1)
    data = buffer.getvalue()
    assert pages.count(data) == 4
    np.testing.assert_array_equal(decode(pages.select(data, 3))[0], np.asarray(IMAGES[2]))


def test_images_of_heic():
    pytest.importorskip("pi_heif")
    data = (pathlib.Path(__file__).parents[2] / "data" / "heic" / "two-images.heic").read_bytes()
    assert pages.count(data) == 2
    for number, seed in ((1, 3), (2, 4)):
        size = (128, 96) if seed == 3 else (64, 48)
        expected = photo(seed, size).resize((64, 48))
        assert np.abs(decode(pages.select(data, number))[0] - np.asarray(expected)).mean() < 9


def test_frames_of_dicom():
    pydicom = pytest.importorskip("pydicom")
    folder = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
    data = (folder / "examples_ybr_color.dcm").read_bytes()
    assert pages.count(data) == 30
    first, last = decode(pages.select(data, 1))[0], decode(pages.select(data, 30))[0]
    np.testing.assert_array_equal(first, decode(data)[0])
    assert np.abs(first - last).mean() > 1


def test_what_has_no_pages_has_one():
    for kind in ("JPEG", "BMP", "TIFF", "PNG"):
        buffer = io.BytesIO()
        IMAGES[0].save(buffer, kind)
        assert pages.count(buffer.getvalue()) == 1
        assert pages.count(buffer.getvalue()[:200]) == 1
    assert pages.count(b"") == 1 and pages.count(b"hello") == 1
    with pytest.raises(ImageError) as caught:
        decode(pages.select(b"BM" + bytes(200), 2))
    assert caught.value.status in ("unsupported_format", "not_an_image")


def test_the_file_is_known_from_its_page():
    data = several("GIF")
    chosen = pages.select(data, 3)
    assert pages.split(chosen) == (data, 3) and pages.size_of(chosen) == len(data)
    assert pages.split(data) == (data, 0) and pages.size_of(data) == len(data)


def test_frames_that_cover_a_part_of_the_canvas_are_seen_on_it():
    base, patch = Image.new("RGB", (64, 48), (200, 0, 0)), Image.new("RGB", (64, 48), (200, 0, 0))
    patch.paste((0, 0, 200), (10, 10, 20, 20))
    buffer = io.BytesIO()
    base.save(buffer, "GIF", save_all=True, append_images=[patch])
    out, _ = decode(pages.select(buffer.getvalue(), 2))
    assert tuple(out[0, 0]) == (200, 0, 0) and tuple(out[15, 15]) == (0, 0, 200)
