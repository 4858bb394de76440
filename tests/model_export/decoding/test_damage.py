"""Damaged files: what a decoder can tell, the row tells; and never pixels of unset memory."""

import contextlib
import hashlib
import io
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from image_files import CODECS, GREY, PILLOW, TIFFS, whole
from PIL import Image

from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

configure_pillow()
SPEC = PreprocessSpec(height=48, width=64)


def seen(data: bytes) -> tuple[str, bytes]:
    """(status, pixels where ok)."""
    out = np.empty(SPEC.shape, np.uint8)
    try:
        decode_image(data, SPEC, out)
        return "ok", out.tobytes()
    except ImageError as error:
        return error.status, b""


EVERY = (*PILLOW, *CODECS, *TIFFS, "HEIC")


@pytest.mark.parametrize("name", EVERY)
def test_a_file_that_ends_too_early_is_never_ok_with_other_pixels(name):
    data = whole(name)
    good = seen(data)
    assert good[0] == "ok"
    rng, statuses = random.Random(7), []
    for _ in range(25):
        found = seen(data[: rng.randrange(len(data) // 8, len(data) - 16)])
        assert found[0] != "ok" or found == good
        statuses.append(found[0])
    # What is cut is said to be cut, not to be damaged. A raw's preview lies before its raw data.
    assert statuses.count("ok" if name == "DNG preview" else "truncated") >= 20


@pytest.mark.parametrize(
    "name", ["PNG", "JPEG XL", "TIFF tiff_adobe_deflate", "TIFF float deflate", "TIFF LERC",
     "TIFF PNG inside"],
)  # fmt: skip
def test_what_carries_a_checksum_is_never_ok_with_other_pixels(name):
    data = whole(name)
    good, rng = seen(data), random.Random(8)
    first = 200 if name.startswith("TIFF") else 60
    last = len(data) - (400 if name.startswith("TIFF") else 16)  # behind it Pillow writes the tags
    caught = 0
    for _ in range(60):
        bad = bytearray(data)
        at = rng.randrange(first, last)
        bad[at : at + 4] = rng.randbytes(4)
        found = seen(bytes(bad))
        assert found[0] != "ok" or found == good
        caught += found[0] != "ok"
    assert caught > 40


_DIGESTS = """
import sys; sys.path[:0] = {path!r}
from test_damage import digests
print(digests())
"""


def digests() -> str:
    """Of what is seen of damaged files of each kind."""
    rng, found = random.Random(9), hashlib.sha256()
    for name in EVERY:
        data = whole(name)
        for _ in range(8):
            bad = bytearray(data)
            at = rng.randrange(len(data) // 8, len(data))
            if rng.random() < 0.5:
                bad[at : at + 16] = rng.randbytes(16)
            else:
                del bad[at:]
            status, pixels = seen(bytes(bad))
            found.update(f"{name} {status}".encode() + pixels)
    return found.hexdigest()


def test_damaged_files_have_the_same_pixels_whatever_memory_held():
    pytest.importorskip("imagecodecs")
    here = os.path.dirname(__file__)
    path = [here, os.path.dirname(os.path.dirname(here))]
    runs = [
        subprocess.run(
            [sys.executable, "-c", _DIGESTS.format(path=path)],
            capture_output=True, text=True, check=True, timeout=240,
            env={**os.environ, "MALLOC_PERTURB_": str(fill)},
        ).stdout
        for fill in (0, 85, 170)
    ]  # fmt: skip
    assert len(runs[0]) > 60 and len(set(runs)) == 1


def test_a_twelve_bit_jpeg_with_bytes_behind_its_end_is_read():
    data = whole("12-bit JPEG")
    assert seen(data + b"\0" * 100) == seen(data)


def test_the_image_is_the_one_that_was_written():
    good = np.frombuffer(seen(whole("PNG"))[1], np.uint8)
    for name in set(EVERY) - {*GREY, "HEIC"}:
        there = np.frombuffer(seen(whole(name))[1], np.uint8)
        most = {"HDR": 99, "GIF": 6, "DNG": 20}.get(name, 4)
        assert np.abs(good.astype(int) - there).mean() < most, name


def test_libraries_print_nothing_about_damaged_files(capfd, caplog):
    for name in set(TIFFS) - {"TIFF JPEGXR inside"}:  # its library writes to standard error
        data = bytearray(whole(name, (32, 24)))  # mostly tags
        at = int.from_bytes(data[4:8], "little")
        for place in range(at, len(data), 7):
            bad = bytearray(data)
            bad[place] ^= 255
            seen(bytes(bad))
    seen(whole("DICOM JPEG-LS")[:-100])
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_what_a_decoder_says_of_damage_stands_in_a_sentence(codec):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)).save(
        stream, codec
    )
    data = stream.getvalue()
    for broken in (data[:-200], data[:30], data[:40] + bytes(30) + data[70:], data[:12]):
        with contextlib.suppress(ImageError):
            decode_image(broken, SPEC, np.empty(SPEC.shape, np.uint8))
            continue
        with pytest.raises(ImageError) as caught:
            decode_image(broken, SPEC, np.empty(SPEC.shape, np.uint8))
        assert re.match(r"(the |no known |not enough |\d)", str(caught.value)), str(caught.value)
