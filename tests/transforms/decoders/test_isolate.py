"""Decoding apart: the same pixels, and a typed row whatever the decoder does."""

import io
import pathlib

import numpy as np
import pytest
from samples import photo

from imagecensus.model_export.preprocess import MAX_PIXELS, ImageError, PreprocessSpec, decode_image
from imagecensus.transforms.decoders.guard_decoding import Guard
from imagecensus.transforms.decoders.isolate import decode_isolated

POISON = str(pathlib.Path(__file__).parents[2] / "poison")
SPEC = PreprocessSpec(height=32, width=40)


def _jpeg(seed=1):
    file = io.BytesIO()
    photo(seed).save(file, "JPEG")
    return file.getvalue()


def _isolated(data, **bounds):
    out = np.zeros(SPEC.shape, np.uint8)
    return decode_isolated(data, SPEC, out, MAX_PIXELS, **bounds), out


def test_pixels_are_those_of_decode_image():
    expected = np.zeros(SPEC.shape, np.uint8)
    expected_info = decode_image(_jpeg(), SPEC, expected)
    info, pixels = _isolated(_jpeg())
    assert info == expected_info
    np.testing.assert_array_equal(pixels, expected)


def test_errors_are_those_of_decode_image():
    with pytest.raises(ImageError) as expected:
        decode_image(b"no image", SPEC, np.zeros(SPEC.shape, np.uint8))
    with pytest.raises(ImageError) as error:
        _isolated(b"no image")
    assert error.value.status == expected.value.status == "not_an_image"
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize(
    "poison, status, seconds",
    [("segv", "decode_crash", 60), ("lock", "decode_timeout", 3), ("eat", "too_large", 60)],
)
def test_a_defective_decoder_costs_one_row(monkeypatch, poison, status, seconds):
    monkeypatch.setenv("PYTHONPATH", POISON)
    with pytest.raises(ImageError) as error:
        _isolated(b"\xff\xd8\xffPOISON:" + poison.encode(), seconds=seconds, memory=1 << 30)
    assert error.value.status == status


def test_a_guard_isolates_what_a_dead_process_was_decoding(tmp_path, monkeypatch):
    from imagecensus.transforms.decoders import guard_decoding, inflight

    dead = inflight.Journal(str(tmp_path), 1)
    dead.enter(0, inflight.digest_of("a.jpg"))
    dead.close = None
    copied = tmp_path / "1-dead.inflight"
    copied.write_bytes(pathlib.Path(dead.path).read_bytes())
    apart = []
    monkeypatch.setattr(
        guard_decoding.isolate, "decode_isolated", lambda data, *_, **__: apart.append(data)
    )
    guard = Guard(str(tmp_path), 1, 60, 1 << 30)
    out = np.zeros(SPEC.shape, np.uint8)
    guard.decode("a.jpg", _jpeg(1), SPEC, out, MAX_PIXELS)
    guard.decode("b.jpg", _jpeg(2), SPEC, out, MAX_PIXELS)
    guard.close()
    assert apart == [_jpeg(1)]
