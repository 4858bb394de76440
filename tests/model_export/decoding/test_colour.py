"""Colour: profiles against the arithmetic of ICC, alpha, and the photometrics of TIFF."""

import ctypes
import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from samples import photo
from seen import decode, encode

from imagecensus.model_export.decoding import colour, matrix_profile

IMAGE = photo(3, (64, 48))


PIXELS = np.asarray(IMAGE).astype(int)


# Columns: XYZ of the red, green and blue colorants, adapted to D50.
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)


PROPHOTO = np.array(
    [[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.00000, 0.00000, 0.82491]]
)


PROFILES = {"Adobe RGB": (ADOBE, 2.19921875), "ProPhoto": (PROPHOTO, 1.8), "linear": (SRGB, 1.0)}


def profile_of(
    colorants: np.ndarray, gamma: float, curve: bytes = b"", extra: bytes = b""
) -> bytes:
    """An ICC profile of version 2: a matrix, and one curve for all; `extra`: names one more tag."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = curve or b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = [(b"desc", text + bytes(-len(text) % 4)), (b"wtpt", xyz((0.9642, 1.0, 0.8249)))]
    tags += [(name + b"XYZ", xyz(colorants[:, i])) for i, name in enumerate((b"r", b"g", b"b"))]
    tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    tags += [(extra, curve)] if extra else []
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    whole = header + bytes(128 - len(header)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def by_hand(pixels: np.ndarray, colorants: np.ndarray, gamma: float) -> np.ndarray:
    """What sRGB shows the same colours with."""
    light = (pixels / 255) ** gamma @ colorants.T @ np.linalg.inv(SRGB).T
    light = light.clip(0, 1)
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return curve * 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", PROFILES)
def test_profiles_become_srgb_as_icc_computes(name, kind):
    buffer = io.BytesIO()
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    IMAGE.save(buffer, kind, icc_profile=profile_of(*PROFILES[name]), **options.get(kind, {}))
    out, info = decode(buffer.getvalue())
    difference = np.abs(out - by_hand(PIXELS, *PROFILES[name]))
    assert info.colour_converted
    assert difference.mean() < 1.5 and np.percentile(difference, 99) <= (6 if kind == "JPEG" else 3)
    assert np.abs(out - PIXELS).mean() > 4  # it is no small thing


def parametric(kind: int, *numbers: float) -> bytes:
    head = b"para\0\0\0\0" + struct.pack(">HH", kind, 0)
    return head + struct.pack(f">{len(numbers)}i", *(round(n * 65536) for n in numbers))


_OF_SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


CURVES = {
    "gamma": b"", "none": b"curv" + bytes(8),
    "table": b"curv\0\0\0\0" + struct.pack(">I5H", 5, 0, 2500, 14000, 35000, 65535),
    "para 0": parametric(0, 2.2), "para 1": parametric(1, 2.2, 1.05, -0.05),
    "para 2": parametric(2, 2.2, 1.05, -0.05, 0.0), "para 3": parametric(3, *_OF_SRGB),
    "para 4": parametric(4, *_OF_SRGB, 0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("colorants", [ADOBE, PROPHOTO, SRGB], ids=["Adobe", "ProPhoto", "sRGB"])
@pytest.mark.parametrize("curve", CURVES)
def test_tables_convert_as_lcms_does(curve, colorants):
    icc = profile_of(colorants, 2.2, CURVES[curve])
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    lcms = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")

    def exact(image):
        return ImageCms.applyTransform(image, lcms)

    convert = matrix_profile.make_converter(profile, icc, exact)
    assert convert is not None  # it is within a level on the points that are looked at
    levels = np.arange(0, 256, 3, np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    image = Image.fromarray(grid)
    difference = np.abs(np.asarray(convert(image)).astype(int) - np.asarray(exact(image)))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.03
    if colorants is SRGB and curve in ("para 3", "para 4"):
        assert np.abs(np.asarray(colour.to_srgb(image, icc)).astype(int) - grid).max() <= 1


def test_other_profiles_are_left_to_lcms():
    never = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    assert matrix_profile.make_converter(never, never.tobytes(), lambda image: image) is None
    with_table = profile_of(ADOBE, 2.2, extra=b"A2B0")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(with_table))
    assert matrix_profile.make_converter(profile, with_table, lambda image: image) is None
    no_black = profile_of(ADOBE, 2.2, parametric(1, 2.2, 0.9, 0.1))  # lcms compensates for it
    assert np.asarray(colour.to_srgb(IMAGE, no_black)).shape == PIXELS.shape
    plain = profile_of(ADOBE, 2.2)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(plain))
    assert matrix_profile.make_converter(profile, plain, lambda image: image) is None  # far off


def jpeg_xl_of(pixels: np.ndarray, icc: bytes, *, lossless: bool) -> bytes:
    """A JPEG XL with a profile, which imagecodecs has no way to write, by the libjxl in it."""
    jpegxl = pytest.importorskip("imagecodecs._jpegxl")
    lib = ctypes.CDLL(jpegxl.__file__)
    for name in ("JxlEncoderCreate", "JxlEncoderFrameSettingsCreate"):
        getattr(lib, name).restype = ctypes.c_void_p
    encoder = ctypes.c_void_p(lib.JxlEncoderCreate(None))
    info = (ctypes.c_uint32 * 64)()
    lib.JxlEncoderInitBasicInfo(info)
    info[1], info[2] = pixels.shape[1], pixels.shape[0]
    info[9] = lossless  # uses_original_profile
    assert lib.JxlEncoderSetBasicInfo(encoder, info) == 0
    assert lib.JxlEncoderSetICCProfile(encoder, icc, ctypes.c_size_t(len(icc))) == 0
    how = ctypes.c_void_p(lib.JxlEncoderFrameSettingsCreate(encoder, None))
    if lossless:
        lib.JxlEncoderSetFrameLossless(how, 1)
    else:
        lib.JxlEncoderSetFrameDistance(how, ctypes.c_float(0.1))
    kind = (ctypes.c_uint64 * 3)(3 | 2 << 32, 0, 0)  # 3 channels of uint8
    data = pixels.astype(np.uint8).tobytes()
    assert lib.JxlEncoderAddImageFrame(how, kind, data, ctypes.c_size_t(len(data))) == 0
    lib.JxlEncoderCloseInput(encoder)
    out = ctypes.create_string_buffer(1 << 20)
    at, left = ctypes.c_void_p(ctypes.addressof(out)), ctypes.c_size_t(len(out))
    assert lib.JxlEncoderProcessOutput(encoder, ctypes.byref(at), ctypes.byref(left)) == 0
    lib.JxlEncoderDestroy(encoder)
    return out.raw[: len(out) - left.value]


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("name", PROFILES)
def test_profiles_of_jpeg_xl_become_srgb(name, lossless):
    """Lossless ones are stored in the profile, others as XYB, which libjxl decodes to one."""
    out, info = decode(jpeg_xl_of(PIXELS, profile_of(*PROFILES[name]), lossless=lossless))
    difference = np.abs(out - by_hand(PIXELS, *PROFILES[name]))
    assert difference.mean() < 1.5 and np.percentile(difference, 99) <= (3 if lossless else 8)
    assert info.colour_converted or not lossless


def test_jpeg_xl_of_srgb_is_not_converted():
    codecs = pytest.importorskip("imagecodecs")
    for options in ({"lossless": True}, {"distance": 0.1}):
        for pixels in (PIXELS.astype(np.uint8), PIXELS[..., 0].astype(np.uint8)):
            _, info = decode(codecs.jpegxl_encode(pixels, **options))
            assert not info.colour_converted


def test_avif_with_alpha_by_two_decoders():
    codecs = pytest.importorskip("imagecodecs")
    alpha = np.full((48, 64, 1), 255, np.uint8)
    alpha[:10] = 0
    data = codecs.avif_encode(np.dstack([PIXELS.astype(np.uint8), alpha]), level=90)
    out, info = decode(data)
    other = codecs.avif_decode(data).astype(int)
    share = other[..., 3:] / 255
    expected = other[..., :3] * share + 255 * (1 - share)
    assert info.format == "AVIF" and (out[:9] > 250).all()
    assert np.abs(out - expected).max() <= 3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("photometric", "options"),
    [
        ("rgb", {}), ("rgb", {"compression": "lzw", "predictor": True}),
        ("rgb", {"compression": "jpeg", "compressionargs": {"level": 100}}),
        ("ycbcr", {"compression": "jpeg", "compressionargs": {"level": 100}}),
        ("palette", {}), ("palette", {"compression": "packbits"}),
        ("rgb", {"compression": "jpeg2000"}), ("rgb", {"compression": "webp"}),
        ("rgb", {"tile": (16, 16), "compression": "deflate"}),
    ],
)  # fmt: skip
def test_photometrics_of_tiff_against_tifffile(photometric, options, big, order):
    tifffile = pytest.importorskip("tifffile")
    buffer, samples = io.BytesIO(), PIXELS.astype(np.uint8)
    if photometric == "palette":
        indexed = IMAGE.quantize(200)
        colours = np.zeros((3, 256), np.uint16)
        listed = np.array(indexed.getpalette(), np.uint16).reshape(-1, 3).T
        colours[:, : listed.shape[1]] = listed * 257
        samples, options = np.asarray(indexed), {**options, "colormap": colours}
    tifffile.imwrite(
        buffer, samples, photometric=photometric, byteorder=order, bigtiff=big, **options
    )
    out, _ = decode(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        expected = file.pages[0].asarray()
        if photometric == "palette":
            expected = (file.pages[0].colormap.T >> 8)[expected]
    assert np.abs(out - expected.astype(int)).max() <= 2


def test_a_profile_of_srgb_or_a_damaged_one_changes_nothing():
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    assert lab and srgb
    same, info = decode(
        encode(photo(4), "PNG", icc_profile=ImageCms.ImageCmsProfile(srgb).tobytes())
    )
    assert not info.colour_converted
    np.testing.assert_array_equal(same, np.asarray(photo(4)))
    broken, info = decode(encode(photo(4), "PNG", icc_profile=b"no profile at all"))
    np.testing.assert_array_equal(broken, np.asarray(photo(4)))
    assert not info.colour_converted
