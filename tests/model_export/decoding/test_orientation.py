"""Every format that can carry an orientation, in all eight: turned once, sizes as stored."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from samples import photo
from seen import decode

from imagecensus.model_export.preprocess import configure_pillow

configure_pillow()
UPRIGHT = photo(3, (128, 96)).resize((64, 48))
# What is to be done to an upright image, so that the orientation undoes it.
TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
PILLOW = {
    "JPEG": {"quality": 95}, "MPO": {"quality": 95, "save_all": True, "append_images": [photo(9)]},
    "PNG": {}, "WEBP": {"quality": 95}, "AVIF": {"quality": 95},
}  # fmt: skip
LIBTIFF = (
    "raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "lzma", "zstd",
    "group3", "group4", "tiff_ccitt",
)  # fmt: skip
TIFFFILE = {
    **{name: {"compression": name} for name in (
        "lzw", "deflate", "packbits", "zstd", "lzma", "jpeg", "webp", "jpegxl", "jpeg2000", "png",
        "jpegxr", "lerc",
    )},
    "tiles": {"tile": (16, 16)}, "planes": {"planarconfig": "separate"},
    "BigTIFF": {"bigtiff": True}, "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
    "16 bits": {"dtype": "u2"}, "floats": {"dtype": "f4"}, "old deflate": {"compression": 32946},
}  # fmt: skip


def stored(orientation: int) -> Image.Image:
    turn = TURNS[orientation]
    return UPRIGHT if turn is None else UPRIGHT.transpose(turn)


def check(data, orientation, expected=UPRIGHT, most=8.0):  # wrongly turned, it is above 40
    out, info = decode(data)
    assert np.abs(out - np.asarray(expected).astype(int)).mean() < most
    assert (info.width, info.height) == stored(orientation).size
    assert info.orientation == orientation


every_orientation = pytest.mark.parametrize("orientation", range(1, 9))


@every_orientation
@pytest.mark.parametrize("kind", PILLOW)
def test_exif(kind, orientation):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored(orientation).save(buffer, kind, exif=exif, **PILLOW[kind])
    check(buffer.getvalue(), orientation)


@every_orientation
@pytest.mark.parametrize("compression", LIBTIFF)
def test_tiff_as_pillow_writes_it(compression, orientation):
    tags, buffer, image = TiffImagePlugin.ImageFileDirectory_v2(), io.BytesIO(), stored(orientation)
    expected, tags[274] = UPRIGHT, orientation
    if compression.startswith("group") or compression.endswith("ccitt"):
        image = image.convert("L").point(lambda value: 255 * (value > 128)).convert("1")
        expected = UPRIGHT.convert("L").point(lambda value: 255 * (value > 128)).convert("RGB")
    options = {"quality": 95} if compression == "jpeg" else {}
    image.save(buffer, "TIFF", compression=compression, tiffinfo=tags, **options)
    check(buffer.getvalue(), orientation, expected)


@every_orientation
@pytest.mark.parametrize("kind", TIFFFILE)
def test_tiff_as_tifffile_writes_it(kind, orientation):
    tifffile, buffer = pytest.importorskip("tifffile"), io.BytesIO()
    options = dict(TIFFFILE[kind])
    samples = np.asarray(stored(orientation)).astype(options.pop("dtype", "u1"))
    samples = samples * 257 if samples.dtype == "u2" else samples
    samples = samples / np.float32(255) if samples.dtype == "f4" else samples
    if "planarconfig" in options:
        samples = np.moveaxis(samples, -1, 0)
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(buffer, samples, photometric="rgb", extratags=tags, **options)
    check(buffer.getvalue(), orientation)


@every_orientation
def test_jpeg_2000(orientation):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored(orientation).save(buffer, "JPEG2000")
    content = b"JpgTiffExif->JP2" + exif.tobytes()[6:]
    box = struct.pack(">I", len(content) + 8) + b"uuid" + content
    data = buffer.getvalue()
    before = data.index(b"jp2c") - 4
    check(data[:before] + box + data[before:], orientation, most=0.1)


@every_orientation
def test_jpeg_xl(orientation):
    codecs = pytest.importorskip("imagecodecs")
    data = codecs.jpegxl_encode(np.asarray(stored(orientation)), distance=0.1)
    check(oriented_jpeg_xl(data, stored(orientation).size, orientation), orientation)


def oriented_jpeg_xl(data: bytes, size: tuple[int, int], orientation: int) -> bytes:
    """A file whose metadata are the usual ones, with another orientation.

    The header is written anew: size of both sides, then the fields with their usual values.
    """
    width, height = size
    value, used = 0, 0

    def put(number: int, bits: int) -> None:
        nonlocal value, used
        value |= number << used
        used += bits

    put(0xFF | 0x0A << 8, 16)
    for number, bits in ((0, 1), (0, 2), (height - 1, 9), (0, 3), (0, 2), (width - 1, 9)):
        put(number, bits)  # not in eights; 9 bits a side; no usual ratio
    for number, bits in (
        (0, 1), (1, 1), (orientation - 1, 3), (0, 3),  # extra fields: only the orientation
        (0, 3), (1, 1), (0, 2),  # 8 bits, whole numbers; 16-bit buffers suffice; no extra channel
        (1, 1), (1, 1), (1, 1), (0, 2), (1, 1),  # XYB, sRGB, tone mapping, extensions, transform
    ):  # fmt: skip
        put(number, bits)
    there = int.from_bytes(data[:8], "little") >> 16
    small, ratio = there & 1, there >> 6 & 7
    assert small  # sides in eights: 5 bits each, or one and a ratio
    first = 16 + 9 + (0 if ratio else 5)
    assert int.from_bytes(data[:8], "little") >> first & 3 == 3  # all usual
    return value.to_bytes(-(-used // 8), "little") + data[-(-(first + 2) // 8) :]


@every_orientation
def test_heic_is_turned_by_its_container_and_not_by_its_exif_again(orientation, pytestconfig):
    pytest.importorskip("pi_heif")
    folder = pytestconfig.rootpath / "tests" / "data" / "heic"
    out, info = decode((folder / f"orientation-{orientation}.heic").read_bytes())
    assert np.abs(out - np.asarray(UPRIGHT).astype(int)).mean() < 2
    assert (info.width, info.height, info.orientation) == (64, 48, 1)  # as it turns itself
    assert info.camera == "Maker"


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_broken_orientations_turn_nothing(value):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = value
    UPRIGHT.save(buffer, "JPEG", exif=exif, quality=95)
    check(buffer.getvalue(), 1)
