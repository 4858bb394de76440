"""The one preprocessing function: formats, colours, orientation, limits, broken bytes."""

import dataclasses
import io
import json
import pathlib

import cykooz_resizer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from samples import SHARED_DATA, photo

from imagecensus.model_export import preprocess
from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

configure_pillow()
SPEC = PreprocessSpec(height=48, width=64)


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decode(data: bytes, spec: PreprocessSpec = SPEC, **options):
    out = np.full(spec.shape, 77, np.uint8)
    info = decode_image(data, spec, out, **options)
    return out, info


def status_of(data: bytes, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.status


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_the_very_pixels(image_format):
    image = photo(1)
    options = {"lossless": True} if image_format == "WEBP" else {}
    out, info = decode(encode(image, image_format, **options))
    np.testing.assert_array_equal(out, np.asarray(image))
    assert (info.width, info.height, info.format) == (64, 48, image_format)


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "GIF", "JPEG2000", "AVIF"])
def test_lossy_formats_come_close(image_format):
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    options = {"quality": 95} if image_format in ("JPEG", "WEBP", "AVIF") else {}
    out, info = decode(encode(photo(2), image_format, **options))
    assert info.format == image_format
    assert np.abs(out.astype(int) - np.asarray(photo(2))).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("crop", ["none", "center"])
def test_exif_orientation_is_applied(orientation, crop):
    """A file stored turned, with the tag that says so, gives the upright image's pixels."""
    spec = PreprocessSpec(height=32, width=24, crop=crop)
    upright = photo(3, (160, 120))
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(inverse[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    out, info = decode(encode(stored, "PNG", exif=exif), spec)
    expected, _ = decode(encode(upright, "PNG"), spec)
    # Not to the bit: the filter's two passes swap their order, and remainders their side.
    assert np.abs(out.astype(int) - expected).mean() < 2
    assert (info.width, info.height) == stored.size


def test_orientation_can_be_ignored_by_the_spec():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode(photo(3), "PNG", exif=exif)
    out, _ = decode(data, PreprocessSpec(height=48, width=64, exif_orientation=False))
    np.testing.assert_array_equal(out, np.asarray(photo(3)))


def test_alpha_is_composited_over_white():
    rgba = photo(4).convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    out, _ = decode(encode(rgba, "PNG"))
    white = Image.new("RGBA", rgba.size, "white")
    expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    assert np.abs(out.astype(int) - expected).max() <= 1


def test_transparent_palette_is_white():
    image = Image.new("P", (64, 48), 0)
    image.putpalette([10, 200, 30] + [0] * 765)
    out, _ = decode(encode(image, "PNG", transparency=0))
    assert (out == 255).all()


def test_sixteen_bit_keeps_the_high_byte():
    samples = (np.arange(48 * 64, dtype=np.uint32).reshape(48, 64) * 21).astype(np.uint16)
    for image_format in ("PNG", "TIFF"):
        out, _ = decode(encode(Image.fromarray(samples), image_format))
        np.testing.assert_array_equal(out[..., 0], samples >> 8)
        assert (out[..., 0] == out[..., 2]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "YCbCr", "LAB", "F"])
def test_every_mode_becomes_rgb(mode):
    image = photo(5).convert("RGB").convert("L" if mode == "F" else "RGB")
    if mode == "LAB":
        from PIL import ImageCms

        transform = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        image = ImageCms.applyTransform(image, transform)
    else:
        image = image.convert(mode)
    image_format = {"YCbCr": "JPEG", "CMYK": "TIFF", "LAB": "TIFF", "F": "TIFF"}.get(mode, "PNG")
    out, _ = decode(encode(image, image_format))
    assert out.shape == SPEC.shape and out.std() > 5


def test_cmyk_jpeg_has_the_right_colours():
    out, _ = decode(encode(photo(6).convert("CMYK"), "JPEG", quality=98, subsampling=0))
    assert np.abs(out.astype(int) - np.asarray(photo(6))).mean() < 6


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(image_format):
    first, second = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(first, image_format, save_all=True, append_images=[second], **options)
    out, _ = decode(data)
    assert (out[..., 0] > 240).all() and (out[..., 2] < 15).all()


def test_grey_spec_gives_three_equal_channels():
    out, _ = decode(encode(photo(7), "PNG"), PreprocessSpec(height=48, width=64, color="grey"))
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 1] == out[..., 2]).all()
    np.testing.assert_array_equal(out[..., 0], np.asarray(photo(7).convert("L")))


def test_center_crop_keeps_the_middle():
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    out, _ = decode(encode(image, "PNG"), PreprocessSpec(height=20, width=20, crop="center"))
    assert (out[:, 2:-2, 2] == 255).all() and (out[:, 2:-2, 0] == 0).all()


def test_dct_scaling_changes_large_jpegs_little():
    data = encode(photo(8, (1600, 1200)), "JPEG", quality=90)
    fast, info = decode(data)
    slow, _ = decode(data, PreprocessSpec(height=48, width=64, dct_margin=0))
    assert (info.width, info.height) == (1600, 1200)
    assert 0 < np.abs(fast.astype(int) - slow).mean() < 4


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    mode=st.sampled_from(["L", "RGB"]),
    crop=st.sampled_from([{}, {"crop": "center"}, {"crop": "center", "crop_fraction": 0.875}]),
)
def test_both_resizers_give_the_same_pixels_but_for_rounding(size, target, mode, crop):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(sum(size)).integers(0, 256, shape, np.uint8)
    data = encode(Image.fromarray(pixels), "PNG")
    spec = PreprocessSpec(height=target[1], width=target[0], **crop)
    simd, _ = decode(data, spec)
    pillow, _ = decode(data, dataclasses.replace(spec, resizer="pillow", reducing_gap=0))
    assert np.abs(simd.astype(int) - pillow).max() <= 1


@pytest.mark.parametrize("resize", ["nearest", "bicubic", "lanczos"])
def test_the_other_filters_are_the_same_too(resize):
    data = encode(photo(6).resize((333, 217)), "PNG")
    spec = PreprocessSpec(height=48, width=64, resize=resize)
    simd, _ = decode(data, spec)
    pillow, _ = decode(data, dataclasses.replace(spec, resizer="pillow", reducing_gap=0))
    assert np.abs(simd.astype(int) - pillow).max() <= 2


def test_pixels_do_not_depend_on_the_processor():
    drawn = photo(5).resize((301, 203))
    options = preprocess._SIMD["bilinear"]
    answers = set()
    for extension in ("none", "sse4_1", "avx2", "neon"):
        resizer, resized = cykooz_resizer.Resizer(), Image.new("RGB", (48, 64))
        resizer.cpu_extensions = cykooz_resizer.CpuExtensions[extension]
        resizer.resize_pil(drawn, resized, options)
        answers.add(resized.tobytes())
    assert len(answers) == 1


def test_contracts_from_before_the_choice_of_a_resizer_are_pillows():
    old = PreprocessSpec().to_json()
    del old["resizer"]
    spec = PreprocessSpec.from_json(old)
    assert spec.resizer == "pillow"
    assert spec.to_json() == old  # nor does the fingerprint of their datasets change


def test_the_name_never_decides():
    """Content only: the function is not even told the name."""
    assert decode(encode(photo(9), "PNG"))[1].format == "PNG"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "empty_file"),
        (b"<html><body>404 not found</body></html>", "not_an_image"),
        (b"\x00" * 1000, "not_an_image"),
        (b"8BPS\x00\x01" + b"\x00" * 100, "decode_error"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "truncated"),
        (b"\xff\xd8\xff\xe0", "decode_error"),
        (b"\x89PNG\r\n\x1a\n", "decode_error"),
    ],
)
def test_what_is_no_image(data, status):
    assert status_of(data) == status


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_cut_file_is_typed(image_format):
    data = encode(photo(10, (200, 150)), image_format)
    assert status_of(data[: len(data) * 2 // 3]) in ("truncated", "decode_error")
    if image_format in ("JPEG", "PNG"):
        assert status_of(data[: len(data) * 2 // 3]) == "truncated"


def test_pixel_limit_is_checked_on_the_header():
    bomb = encode(Image.new("1", (20000, 20000)), "PNG")
    with pytest.raises(ImageError) as caught:
        decode(bomb, max_pixels=100_000_000)
    assert caught.value.status == "too_large"
    assert "--max-pixels" in str(caught.value)
    decode(encode(photo(1), "PNG"), max_pixels=64 * 48)
    decode(encode(photo(1), "PNG"), max_side=64)
    assert status_of(encode(photo(1), "PNG"), max_side=63) == "too_large"
    assert status_of(encode(photo(1), "PNG"), max_pixels=64 * 48 - 1) == "too_large"


@given(st.binary(max_size=400))
def test_any_bytes_give_pixels_or_a_typed_error(data):
    try:
        decode(data)
    except ImageError as error:
        assert error.status and str(error)


@settings(deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_images_give_pixels_or_a_typed_error(image_format, damage):
    data = bytearray(encode(photo(11), image_format))
    for place, value in damage:
        data[int(place * (len(data) - 1))] = value
    try:
        decode(bytes(data))
    except ImageError as error:
        assert error.status in (
            "truncated", "decode_error", "not_an_image", "unsupported_format", "too_large",
        )  # fmt: skip


def test_spec_round_trips_and_refuses_the_unknown():
    spec = PreprocessSpec(height=96, crop="center", crop_fraction=0.875)
    assert PreprocessSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="update imagecensus"):
        PreprocessSpec.from_json({**spec.to_json(), "sharpen": 1})
    with pytest.raises(ValueError, match="resize 'magic'.*crop 'x'"):
        PreprocessSpec(resize="magic", crop="x")


AWKWARD = {
    "hopper.jpg": "ok", "pil_sample_cmyk.jpg": "ok", "hopper.webp": "ok", "hopper.gif": "ok",
    "16bit.cropped.tif": "ok", "tiff_16bit_RGB.tiff": "ok", "frame_size.mpo": "ok",
    "hopper_16bit.pgm": "ok", "pal8rletrns.png": "ok", "16bit.cropped.jp2": "ok",
    "tiff_strip_cmyk_jpeg.tif": "ok", "decompression_bomb.gif": "too_large",
    "truncated_jpeg.jpg": "ok", "truncated_image.png": "truncated",
    "LICENSE": "not_an_image", "combined_larger_than_size.psd": "truncated",
    "seek_too_large.tif": "truncated", "pngtest_bad.png.bin": "not_an_image",
    "crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": "truncated",
}  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_files(name):
    data = pathlib.Path(SHARED_DATA / "awkward" / "pillow" / name).read_bytes()
    try:
        decode(data)
        status = "ok"
    except ImageError as error:
        status = error.status
    assert status == AWKWARD[name]


@pytest.mark.real_data
@pytest.mark.parametrize("shape", ["Portrait", "Landscape"])
def test_real_orientation_examples_agree(shape):
    """The eight files show one scene, with the number of the orientation painted on it."""
    spec = PreprocessSpec(height=64, width=64)
    folder = SHARED_DATA / "awkward" / "exif-orientation"
    files = sorted(p for p in folder.rglob(f"{shape}_[1-8].jpg"))
    assert len(files) == 8
    images = [decode(p.read_bytes(), spec)[0].astype(int) for p in files]
    for other in images[1:]:
        assert np.abs(other - images[0]).mean() < 25


def test_means_and_deviations_of_each_channel_survive_json():
    spec = PreprocessSpec(height=2, width=2, scale=(0.1, 0.2, 0.3), offset=(-1.0, 0.0, 1.0))
    again = PreprocessSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec and hash(again) == hash(spec)
    assert spec.to_json() == json.loads(json.dumps(spec.to_json()))  # datasets compare it
    for wrong in ((1.0, 2.0), (1.0, 2.0, float("nan")), float("inf")):
        with pytest.raises(ValueError, match="one for each channel"):
            PreprocessSpec(scale=wrong)
