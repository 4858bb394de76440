"""Formats that Pillow reads."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from samples import photo
from seen import SIZE, decode, encode, status_of


@pytest.mark.parametrize("kind", ["TGA", "PCX", "ICO", "QOI", "SGI", "DDS"])
def test_more_formats_of_pillow(kind):
    image = photo(6) if kind != "ICO" else photo(6).convert("RGBA")
    out, info = decode(encode(image, kind, **({"sizes": [SIZE]} if kind == "ICO" else {})))
    assert info.format == kind
    assert np.abs(out - np.asarray(photo(6))).mean() < 3


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF800, 0x7E0, 0x1F)), (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (24, (0xFF, 0xFF00, 0xFF0000)), (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)), (24, (0, 0, 0xFF)),
    ],
)  # fmt: skip
def test_plain_colours_of_dds_are_those_that_pillow_reads(bits, masks):
    flags = 0x40 | (len(masks) == 4)
    head = struct.pack("<4s7I44x", b"DDS ", 124, 0x1007, 48, 64, 0, 0, 0)
    head += struct.pack("<2I4xI4I20x", 32, flags, bits, *masks, *[0] * (4 - len(masks)))
    content = np.random.default_rng(1).integers(0, 256, 64 * 48 * bits // 8).astype(np.uint8)
    data = head + content.tobytes()
    with Image.open(io.BytesIO(data)) as image:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    assert np.abs(decode(data)[0] - np.asarray(expected)).max() <= 1
    assert status_of(data[:-100]) == "truncated"
