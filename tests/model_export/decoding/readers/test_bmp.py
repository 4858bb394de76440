"""BMP of masks and of runs of 4 bits, against what was written into them."""

import struct

import numpy as np
import pytest
from samples import photo

from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

configure_pillow()
RGB = np.asarray(photo(5, (63, 48)))  # an odd width: rows are filled up to 4 bytes
GREY = np.asarray(photo(5, (63, 48)).convert("L")) >> 4
PALETTE = b"".join(struct.pack("4B", level * 17, level * 17, level * 17, 0) for level in range(16))


def decode(data, decoding=2):
    spec = PreprocessSpec(height=48, width=63, decoding=decoding)
    out = np.empty(spec.shape, np.uint8)
    info = decode_image(data, spec, out)
    assert (info.format, info.width, info.height) == ("BMP", 63, 48)
    return out.astype(int)


def bmp_of(content, bits, packing, *, masks=(), header=40, first="bottom", palette=b""):
    """`masks` of colours are behind a header of 40 bytes, and in a longer one."""
    height = 48 if first == "bottom" else -48
    fields = struct.pack("<IiiHHIIiiII", header, 63, height, 1, bits, packing, 0, 0, 0, 0, 0)
    fields += struct.pack(f"<{len(masks)}I", *masks)
    fields = fields.ljust(header, b"\0") + palette
    return (
        struct.pack("<2sI4xI", b"BM", 14 + len(fields) + len(content), 14 + len(fields))
        + fields
        + content
    )


def packed(samples, masks, bits):
    """Rows of numbers in which each sample, of 8 bits, fills the bits of its mask."""
    values = np.zeros(samples.shape[:2], np.uint64)
    for i, mask in enumerate(masks):
        shift = (mask & -mask).bit_length() - 1
        most = mask >> shift
        values |= np.rint(samples[..., i] / 255 * most).astype(np.uint64) << np.uint64(shift)
    rows = values.astype(f"<u{bits // 8}")
    rows = np.pad(rows, ((0, 0), (0, -63 % (32 // bits))))
    return rows.tobytes()


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF800, 0x7E0, 0x1F)), (16, (0xF00, 0xF0, 0xF)), (16, (0xE000, 0x1C00, 0x300)),
        (32, (0xFF, 0xFF00, 0xFF0000)), (32, (0xFF000000, 0xFF0000, 0xFF00)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)), (16, (0xF000, 0xF00, 0xF0, 0xF)),
        (32, (0xFF00, 0xFF, 0xFF000000, 0xFF0000)),
    ],
)  # fmt: skip
def test_masks(bits, masks):
    alpha = np.broadcast_to(np.linspace(0, 255, 63)[None, :, None], (48, 63, 1))
    samples = np.dstack([RGB, alpha]) if len(masks) == 4 else RGB
    seen = RGB * (alpha / 255) + 255 - alpha if len(masks) == 4 else RGB
    steps = min(mask.bit_count() for mask in masks)
    kinds = [(108, 3)] if len(masks) == 4 else [(40, 3), (52, 3), (108, 3)]
    kinds += [(40, 6)] if len(masks) == 4 else []
    for header, packing in kinds:
        for first in ("bottom", "top"):
            rows = samples[::-1] if first == "bottom" else samples
            content = packed(rows, masks, bits)
            data = bmp_of(content, bits, packing, masks=masks, header=header, first=first)
            assert np.abs(decode(data) - seen).max() <= 255 / ((1 << min(steps, 8)) - 1) + 2
            with pytest.raises(ImageError) as caught:
                decode(data[:-9])
            assert caught.value.status == "truncated"


def runs_of(rows):
    """Runs of 4 bits: of one level, of two in turn, absolute ones, and a jump over the rest."""
    content = b""
    for row in rows:
        at = 0
        while at < len(row):
            same = 1
            while at + same < len(row) and same < 255 and row[at + same] == row[at + same % 2]:
                same += 1
            if same > 2:
                other = row[at + 1]
                content += bytes([same, row[at] << 4 | other])
                at += same
                continue
            part = [int(level) for level in row[at : at + 7]]
            if len(part) < 3:
                content += b"".join(bytes([1, level << 4]) for level in part)
            else:
                filled = [*part, 0] if len(part) % 2 else part
                pairs = bytes(filled[i] << 4 | filled[i + 1] for i in range(0, len(filled), 2))
                content += bytes([0, len(part)]) + pairs + b"\0" * (len(pairs) % 2)
            at += len(part)
        content += b"\0\0"
    return content + b"\0\1"


def test_runs_of_four_bits():
    for levels in (GREY, GREY // 5, np.indices((48, 63)).sum(0).astype(np.uint8) % 2 * 9):
        data = bmp_of(runs_of(levels[::-1]), 4, 2, palette=PALETTE)
        for decoding in (1, 2):  # Pillow garbles them
            out = decode(data, decoding)
            np.testing.assert_array_equal(out, np.repeat(levels[..., None] * 17, 3, 2))
        with pytest.raises(ImageError) as caught:
            decode(data[:-9])
        assert caught.value.status == "truncated"


def test_jumps_and_runs_that_leave_the_image():
    data = bmp_of(b"\0\2\5\2" + b"\4\xff" + b"\0\1", 4, 2, palette=PALETTE)
    out = decode(data)
    assert (out[45, 5:9] == 255).all() and out.sum() == 4 * 3 * 255
    for content in (b"\0\2\x50\2\4\xff\0\1", b"\0\2\0\x30\4\xff\0\1"):
        with pytest.raises(ImageError) as caught:
            decode(bmp_of(content, 4, 2, palette=PALETTE))
        assert caught.value.status == "decode_error"
