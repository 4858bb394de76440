"""Camera raw: developed or by its preview, against the image that it was made of."""

import io
import itertools

import numpy as np
import pytest
from image_files import dng_of
from PIL import Image
from samples import photo

from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

pytest.importorskip("rawpy")
configure_pillow()
IMAGE = photo(5, (128, 96))
SPEC = PreprocessSpec(height=48, width=64)
SEEN = np.asarray(IMAGE.resize((64, 48)))
PATTERNS = ((0, 1, 1, 2), (2, 1, 1, 0), (1, 0, 2, 1), (1, 2, 0, 1))


def decode(data, spec=SPEC):
    out = np.empty(spec.shape, np.uint8)
    info = decode_image(data, spec, out)
    assert info.format == "DNG"
    return out, info


def alike(out, expected):
    """Of the same colours, whatever the brightness: LibRaw chooses its own."""
    pairs = zip(np.moveaxis(out, -1, 0), np.moveaxis(expected, -1, 0), strict=True)
    return min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs)


def jpeg_of(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_every_mosaic_depth_and_byte_order_is_developed():
    for pattern, bits, order in itertools.product(PATTERNS, (10, 12, 14, 16), "<>"):
        out, info = decode(dng_of(np.asarray(IMAGE), pattern=pattern, bits=bits, byteorder=order))
        assert alike(out, SEEN) > 0.97
        assert np.abs(out.mean((0, 1)) - out.mean()).max() < 4  # no colour is stronger
        assert (info.width, info.height, info.camera) == (128, 96, None)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("with_preview", [False, True])
def test_orientation(orientation, with_preview):
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90,
            8: Image.Transpose.ROTATE_270}.get(orientation)  # fmt: skip
    stored = IMAGE if turn is None else IMAGE.transpose(turn)
    data = dng_of(
        np.asarray(stored),
        preview=jpeg_of(stored) if with_preview else None,
        extratags=[(274, "H", 1, orientation, True)],
    )
    out, info = decode(data)
    assert alike(out, SEEN) > 0.97
    assert (info.width, info.height, info.orientation) == (*stored.size, orientation)


def test_a_preview_is_taken_from_half_of_the_size_on():
    other = photo(9, (128, 96))
    for size, is_taken in (((128, 96), True), ((64, 48), True), ((62, 46), False)):
        out, _ = decode(dng_of(np.asarray(IMAGE), preview=jpeg_of(other.resize(size))))
        assert alike(out, np.asarray(other.resize((64, 48))) if is_taken else SEEN) > 0.95


def test_cut_and_damaged_raw_data():
    pixels = np.asarray(IMAGE)
    with pytest.raises(ImageError, match="cut") as caught:
        decode(dng_of(pixels)[:-5000])
    assert caught.value.status == "truncated"
    data = dng_of(pixels, bits=14, compression=7, compressionargs={"lossless": True,
                                                                  "bitspersample": 14})  # fmt: skip
    assert alike(decode(data)[0], SEEN) > 0.97
    bad = bytearray(data)
    bad[len(data) // 2 : len(data) // 2 + 500] = b"\xff\xd9" * 250
    with pytest.raises(ImageError, match="damaged") as caught:
        decode(bytes(bad))
    assert caught.value.status == "decode_error"
