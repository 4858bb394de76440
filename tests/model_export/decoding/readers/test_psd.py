"""Photoshop's files: every mode, depth and packing, against what was written into them."""

import itertools

import numpy as np
import pytest
from image_files import psd_of
from PIL import Image, ImageCms
from samples import photo

from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

configure_pillow()
SPEC = PreprocessSpec(height=48, width=63)
RGB = np.asarray(photo(5, (63, 48)))  # an odd width: bits of the last byte of a row are no pixels
GREY = np.asarray(photo(5, (63, 48)).convert("L"))[..., None]
UNFLATTENED = {1057: b"\0\0\0\1\0" + bytes(9)}


def decode(data):
    out = np.empty(SPEC.shape, np.uint8)
    info = decode_image(data, SPEC, out)
    assert (info.format, info.width, info.height, info.pages) == ("PSD", 63, 48, 1)
    return out.astype(int)


def deeper(levels, bits):
    """The same image as samples of so many bits; of 32, as light."""
    if bits == 32:
        share = levels / 255
        light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return light.astype(np.float32)
    return levels.astype(np.uint16) * 257 if bits == 16 else levels


def levels_of(mode):
    """(levels as a file of the mode stores them, RGB that is seen)."""
    if mode in (1, 8):
        return GREY, np.repeat(GREY, 3, 2)
    if mode == 3:
        return RGB, RGB
    if mode == 4:
        ink = Image.fromarray(RGB).convert("CMYK")
        return 255 - np.asarray(ink), np.asarray(ink.convert("RGB"))
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    there = ImageCms.profileToProfile(Image.fromarray(RGB), srgb, lab, outputMode="LAB")
    return np.asarray(there) ^ np.array([0, 128, 128], np.uint8), RGB  # signed there


@pytest.mark.parametrize("mode", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_modes_and_depths(mode, bits):
    levels, seen = levels_of(mode)
    for packing, big in itertools.product((0, 1, 2, 3), (False, True)):
        data = psd_of(deeper(levels, bits), mode, packing=packing, big=big)
        if bits == 32 and mode not in (1, 3):
            with pytest.raises(ImageError, match="32 bits") as caught:
                decode(data)
            assert caught.value.status == "unsupported_format"
            continue
        difference = np.abs(decode(data) - seen)
        assert difference.max() <= 1 if mode != 9 else difference.mean() < 2


def test_bitmaps_and_palettes():
    black = (GREY < 128).astype(np.uint8)
    for packing in (0, 1):
        out = decode(psd_of(black, 0, packing=packing))
        assert (out == 255 * (1 - black.astype(int))).all()
    indexed = Image.fromarray(RGB).quantize(200)
    table = np.zeros((256, 3), np.uint8)
    table[:200] = np.array(indexed.getpalette()).reshape(-1, 3)[:200]
    indexes, seen = np.asarray(indexed), table[np.asarray(indexed)].astype(int)
    assert (decode(psd_of(indexes[..., None], 2, palette=table.T.tobytes())) == seen).all()
    data = psd_of(
        indexes[..., None], 2, palette=table.T.tobytes(), resources={1047: b"\0\x07"}, layers=-1
    )
    seen[indexes == 7] = 255
    assert (decode(data) == seen).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_transparency_is_over_white_already_or_else_is_put_over_white(bits):
    alpha = np.broadcast_to(np.linspace(0, 255, 63).round()[None, :, None], (48, 63, 1))
    seen = RGB * (alpha / 255) + 255 - alpha
    over = seen.round().astype(np.uint8)
    for colours in (over, RGB):
        samples = deeper(np.dstack([colours, alpha.astype(np.uint8)]), bits)
        assert np.abs(decode(psd_of(samples, layers=-2)) - seen).max() <= 1
        assert (decode(psd_of(samples, layers=2)) == colours).all()  # only a mask


def test_what_cannot_be_shown_is_named():
    for data, words in (
        (psd_of(RGB, 7), "Multichannel"),
        (psd_of(RGB, layers=3, resources=UNFLATTENED), "Maximize Compatibility"),
        (psd_of(RGB, 5), "8 bits a channel and the mode 5"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            decode(data)
        assert caught.value.status == "unsupported_format"
    assert (decode(psd_of(RGB, resources=UNFLATTENED)) == RGB).all()  # there are no layers


def test_profiles_are_converted():
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert (decode(psd_of(RGB, resources={1039: wide.tobytes()})) == RGB).all()


def test_cut_and_damaged_files():
    for packing, big, keep in itertools.product((0, 1, 2, 3), (False, True), (20, 30, 0.3, 0.9)):
        data = psd_of(RGB, packing=packing, big=big)
        with pytest.raises(ImageError) as caught:
            decode(data[: keep if keep > 1 else int(keep * len(data))])
        assert caught.value.status == "truncated"
    for at, value in ((5, 3), (13, 0), (13, 2), (17, 0)):  # version, channels, height
        bad = bytearray(psd_of(RGB))
        bad[at] = value
        with pytest.raises(ImageError) as caught:
            decode(bytes(bad))
        assert caught.value.status == "decode_error"


@pytest.mark.parametrize("packing", [2, 3])
def test_zipped_pixels_have_a_checksum(packing):
    data, rng = psd_of(RGB, packing=packing), np.random.default_rng(3)
    caught = 0
    for at in rng.integers(60, len(data) - 4, 60):
        bad = bytearray(data)
        bad[at : at + 4] = rng.bytes(4)
        try:
            assert (decode(bytes(bad)) == RGB).all()
        except ImageError as error:
            assert error.status in ("decode_error", "truncated")
            caught += 1
    assert caught > 50
