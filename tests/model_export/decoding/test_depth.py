"""Colour of 16 bits a sample, with nothing installed but Pillow, and with the extra."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from samples import photo
from seen import decode, encode, smooth

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.preprocess import (
    PreprocessSpec,
)

EIGHT = np.asarray(photo(3)).astype(np.uint16)


EIGHT[0, 0], EIGHT[0, 1] = 255, 0


def png_of(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits a sample, made from numbers: [H, W, S]."""
    height, width, count = samples.shape
    rows = samples.astype(">u2").tobytes()
    step = width * count * 2
    raw = b"".join(b"\0" + rows[at : at + step] for at in range(0, len(rows), step))

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.fixture(params=["base", "extra"])
def installed(request, monkeypatch):
    """Runs a test without the libraries of the extra, and with them."""
    if request.param == "extra":
        pytest.importorskip("imagecodecs")
        return
    for name in ("imagecodecs", "tifffile"):
        monkeypatch.setitem(sys.modules, name, None)


def at_depth(bits: int) -> np.ndarray:
    """The 8-bit pixels as samples of so many bits in 16."""
    return (EIGHT << (bits - 8)) | (EIGHT >> (16 - bits))


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_png(installed, bits, alpha):
    samples = at_depth(bits)
    if alpha:
        samples = np.dstack([samples, np.full(samples.shape[:2], 65535, np.uint16)])
    out, info = decode(png_of(samples))
    assert np.abs(out.astype(int) - EIGHT).max() <= 1
    assert info.depth_scaled == (bits < 16)


def test_png_of_grey_and_alpha(installed):
    grey = at_depth(12)[..., 0]
    alpha = np.full_like(grey, 65535)
    alpha[10:20] = 0
    out, _ = decode(png_of(np.dstack([grey, alpha])))
    assert (out[10:20] == 255).all()
    assert np.abs(out[20:, :, 1].astype(int) - EIGHT[20:, :, 0]).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_tiff(order, compression, bits, alpha, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    samples, buffer = at_depth(bits), io.BytesIO()
    if alpha:
        samples = np.dstack([samples, np.full(samples.shape[:2], 65535, np.uint16)])
    tifffile.imwrite(
        buffer, samples, byteorder=order, compression=compression, photometric="rgb",
        extrasamples=["unassalpha"] if alpha else None,
    )  # fmt: skip
    for name in ("imagecodecs", "tifffile"):
        monkeypatch.setitem(sys.modules, name, None)
    out, info = decode(buffer.getvalue())
    assert np.abs(out.astype(int) - EIGHT).max() <= 1
    assert info.depth_scaled == (bits < 16)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_tiff_whose_colours_are_multiplied_by_alpha(dtype):
    tifffile = pytest.importorskip("tifffile")
    top, buffer = np.iinfo(dtype).max, io.BytesIO()
    alpha = np.linspace(0, 1, 48)[:, None, None] * np.ones((48, 64, 1))
    samples = np.dstack([EIGHT / 255 * alpha, alpha]) * top
    tifffile.imwrite(buffer, samples.astype(dtype), photometric="rgb", extrasamples=["assocalpha"])
    out, _ = decode(buffer.getvalue())
    expected = 255 + (EIGHT - 255.0) * alpha
    assert np.abs(out - expected).max() <= 2


@pytest.mark.parametrize("name", ["ten-bits", "grey-ten-bits"])
def test_heic_of_ten_bits(name, pytestconfig):
    pytest.importorskip("pi_heif")
    image = photo(3, (128, 96)).resize((64, 48))
    image = image.convert("L").convert("RGB") if "grey" in name else image
    data = (pytestconfig.rootpath / "tests" / "data" / "heic" / f"{name}.heic").read_bytes()
    out, _ = decode(data)
    assert np.abs(out - np.asarray(image).astype(int)).mean() < 2


def with_clear_colour(png: bytes, *samples: int) -> bytes:
    """The PNG with a colour that is transparent."""
    at = png.index(b"IDAT") - 4
    chunk = b"tRNS" + struct.pack(f">{len(samples)}H", *samples)
    head = struct.pack(">I", 2 * len(samples))
    return png[:at] + head + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[at:]


def test_the_transparent_colour_of_a_png_of_16_bits_is_compared_whole():
    samples = EIGHT * 257
    samples[:, :9] = (0x1234, 0x5678, 0x9ABC)
    samples[:, 9:18] = (0x1299, 0x5699, 0x9A99)  # the same high bytes
    out, _ = decode(with_clear_colour(png_of(samples), 0x1234, 0x5678, 0x9ABC))
    assert (out[:, :9] == 255).all()
    np.testing.assert_array_equal(out[:, 9:], samples[:, 9:] >> 8)
    grey = samples[..., :1]
    out, _ = decode(with_clear_colour(png_of(grey), 0x1234))
    assert (out[:, :9] == 255).all()
    np.testing.assert_array_equal(out[:, 9:, 0], grey[:, 9:, 0] >> 8)


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
@pytest.mark.parametrize("kind", ["JP2", "J2K"])
def test_jpeg_2000_of_few_bits_is_as_light_as_it_was(bits, kind):
    codecs = pytest.importorskip("imagecodecs")
    most = (1 << bits) - 1
    samples = (EIGHT * most // 255).astype(np.uint8)
    alpha = np.full((*samples.shape[:2], 1), most, np.uint8)
    for there in (samples, samples[..., 0], np.dstack([samples, alpha])):
        data = codecs.jpeg2k_encode(there, level=0, codecformat=kind, bitspersample=bits)
        out, _ = decode(data)
        seen = there[..., :3] if there.ndim == 3 else there[..., None]
        assert np.abs(out - seen * (255 / most)).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_jpeg_ls_and_lossless_jpeg_of_16_bits_are_seen_by_what_they_hold(bits):
    codecs = pytest.importorskip("imagecodecs")
    samples = (EIGHT.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
    for data in (
        codecs.jpegls_encode(samples),
        codecs.jpeg_encode(samples, lossless=True, bitspersample=16),
    ):
        out, info = decode(data)
        assert np.abs(out.astype(int) - EIGHT).max() <= 1
        assert info.depth_scaled == (bits < 16)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PNG RGB"])
def test_samples_that_do_not_fill_their_16_bits(kind, bits):
    grey = np.asarray(smooth().convert("L")).astype(np.uint16)
    grey[0, 0] = 255
    samples = (grey << (bits - 8)) | (grey >> (16 - bits))
    if kind == "PNG RGB":
        imagecodecs = pytest.importorskip("imagecodecs")
        data = imagecodecs.png_encode(np.repeat(samples[..., None], 3, -1))
    else:
        data = encode(Image.fromarray(samples), kind)
    out, info = decode(data)
    assert np.abs(out[..., 0] - grey).max() <= 1
    assert info.depth_scaled == (bits < 16)


def test_the_rule_of_depth():
    ramp = np.linspace(0, 1, 4096).reshape(64, 64)

    def of(samples, **options):
        return depth.to_eight_bits(samples, **options)[0]

    thermal = of((29000 + ramp * 1500).astype(np.uint16))
    assert (thermal.min(), thermal.max()) == (0, 255)
    assert of(ramp).max() == 255 and of(ramp * 255).max() == 255
    np.testing.assert_array_equal(of(np.full((4, 4), 7, np.uint16)), 7)
    hounsfield = of((ramp * 3000 - 1000).astype(np.int16))
    assert (hounsfield.min(), hounsfield.max()) == (0, 255)
    holes = ramp.copy()
    holes[0, :2] = np.nan, np.inf
    assert (of(holes)[0, :2] == 0).all()
    stated = of(np.full((4, 4), 512, np.uint16), stated=(0, 1023))
    assert (stated == 128).all()


def test_models_from_before_keep_their_depth_and_colours():
    old = PreprocessSpec(height=48, width=64, decoding=1)
    samples = (np.asarray(smooth().convert("L")).astype(np.uint16)) * 16
    out, _ = decode(encode(Image.fromarray(samples), "PNG"), old)
    np.testing.assert_array_equal(out[..., 0], samples >> 8)
    assert "decoding" not in old.to_json()
    fields = PreprocessSpec().to_json()
    del fields["decoding"]
    assert PreprocessSpec.from_json(fields).decoding == 1
