"""PNG: checksums, and what else a file may hold beside its pixels."""

import struct
import zlib

import numpy as np
import pytest
from samples import photo
from seen import decode, encode, status_of

from imagecensus.model_export.preprocess import (
    PreprocessSpec,
)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_png_is_never_ok(seed):
    data = bytearray(encode(photo(seed, (300, 200)), "PNG"))
    rng = np.random.default_rng(seed)
    at = int(rng.integers(60, len(data) - 20))
    data[at] ^= int(rng.integers(1, 256))
    for decoding in (1, 2):
        spec = PreprocessSpec(height=48, width=64, decoding=decoding)
        assert status_of(bytes(data), spec) in ("decode_error", "truncated")


def test_png_with_much_compressed_text_or_a_large_profile():
    data = encode(photo(1), "PNG")
    for kind, body in (
        (b"zTXt", b"Workflow\x00\x00" + zlib.compress(bytes(3 << 20))),
        (b"iTXt", b"Workflow\x00\x01\x00\x00\x00" + zlib.compress(bytes(3 << 20))),
        (b"iCCP", b"large\x00\x00" + zlib.compress(bytes(3 << 20))),
    ):
        chunk = struct.pack(">I", len(body)) + kind + body
        chunk += struct.pack(">I", zlib.crc32(kind + body))
        for place in (33, data.index(b"IEND") - 4):
            if kind == b"iCCP" and place != 33:
                continue
            out, _ = decode(data[:place] + chunk + data[place:])
            np.testing.assert_array_equal(out, np.asarray(photo(1)))
