"""Every format that is read: orientation, depth, colour, pages, damage, and true statuses."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from samples import photo

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.signatures import identify
from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

configure_pillow()
SIZE = (64, 48)
SPEC = PreprocessSpec(height=48, width=64)


def encode(image, image_format, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decode(data, spec=SPEC, **options):
    out = np.full(spec.shape, 77, np.uint8)
    info = decode_image(data, spec, out, **options)
    return out.astype(int), info


def status_of(data, spec=SPEC):
    try:
        decode(data, spec)
    except ImageError as error:
        return error.status
    return "ok"


def smooth():
    return photo(3, (128, 96)).resize(SIZE)


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


def test_lossless_jpeg_is_never_scaled():
    imagecodecs = pytest.importorskip("imagecodecs")
    large = np.asarray(photo(2, (1200, 1000)))
    for pixels in (large, large[..., 0].copy()):
        data = imagecodecs.jpeg_encode(pixels, lossless=True)
        for decoding in (1, 2):
            spec = PreprocessSpec(height=48, width=64, decoding=decoding)
            out, info = decode(data, spec)
            image = Image.fromarray(pixels)
            expected, _ = decode(encode(image, "PNG"), spec)
            np.testing.assert_array_equal(out, expected)
            assert (info.width, info.height) == (1200, 1000)


def test_twelve_bit_jpeg():
    imagecodecs = pytest.importorskip("imagecodecs")
    samples = np.asarray(smooth().convert("L")).astype(np.uint16) << 4
    data = imagecodecs.jpeg_encode(samples, level=95, bitspersample=12)
    out, _ = decode(data)
    assert np.abs(out[..., 0] - (samples >> 4)).mean() < 3


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_png_is_never_ok(seed):
    data = bytearray(encode(photo(seed, (300, 200)), "PNG"))
    rng = np.random.default_rng(seed)
    at = int(rng.integers(60, len(data) - 20))
    data[at] ^= int(rng.integers(1, 256))
    for decoding in (1, 2):
        spec = PreprocessSpec(height=48, width=64, decoding=decoding)
        assert status_of(bytes(data), spec) in ("decode_error", "truncated")


@pytest.mark.parametrize("compression", ["group3", "group4", "jpeg", "tiff_lzw", "raw", "zstd"])
def test_a_tiff_whose_data_ends_early_is_never_ok(compression):
    bilevel = compression.startswith("group")
    pixels = np.random.default_rng(1).random((200, 300)) > 0.9
    image = Image.fromarray(pixels) if bilevel else photo(1, (300, 200))
    options = {"strip_size": 1 << 30} if not bilevel else {}
    data = encode(image, "TIFF", compression=compression, **options)
    assert status_of(data) == "ok"
    with Image.open(io.BytesIO(data)) as opened:
        place, size = opened.tag_v2[273][0], opened.tag_v2[279][0]
    if compression != "raw":  # the count of bytes says less than there should be
        short = bytearray(data)
        directory = struct.unpack_from("<I", data, 4)[0]
        for i in range(struct.unpack_from("<H", data, directory)[0]):
            tag, _, count, value = struct.unpack_from("<HHII", data, directory + 2 + 12 * i)
            if tag == 279:
                at = directory + 10 + 12 * i if count == 1 else value
                struct.pack_into("<I", short, at, size // 2)
        assert status_of(bytes(short)) in ("decode_error", "truncated")
    moved = bytearray(data[: place + size // 2])
    assert status_of(bytes(moved)) in ("decode_error", "truncated")


def test_the_page_of_full_size_not_its_thumbnail():
    tifffile = pytest.importorskip("tifffile")
    full, small = np.asarray(photo(1, (320, 240))), np.zeros((20, 30, 3), np.uint8)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(small, subfiletype=1, photometric="rgb")
        writer.write(full, photometric="rgb")
        writer.write(full, photometric="rgb")
    out, info = decode(buffer.getvalue())
    expected, _ = decode(encode(Image.fromarray(full), "PNG"))
    np.testing.assert_array_equal(out, expected)
    assert (info.width, info.height, info.pages) == (320, 240, 2)


def test_jpeg_2000_of_more_than_eight_bits_in_colour_and_with_alpha():
    imagecodecs = pytest.importorskip("imagecodecs")
    rgb = np.asarray(smooth()).astype(np.uint16)
    alpha = np.full((*rgb.shape[:2], 1), 255, np.uint16)
    for samples, bits in ((rgb * 257, 16), (rgb << 4, 12), (np.dstack([rgb, alpha]) * 257, 16)):
        for decoding in (1, 2):
            data = imagecodecs.jpeg2k_encode(samples, bitspersample=bits, level=0)
            out, _ = decode(data, PreprocessSpec(height=48, width=64, decoding=decoding))
            assert np.abs(out - rgb).max() <= 1


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_2000_of_signed_samples(bits):
    """Black is the least number that so many bits hold; of 16, the least that is there."""
    imagecodecs = pytest.importorskip("imagecodecs")
    rgb = np.asarray(smooth()).astype(np.int32)
    rgb[0, :2] = [[0] * 3, [255] * 3]
    for levels in (rgb, rgb[..., 0]):
        samples = (levels << (bits - 8)) - (1 << (bits - 1))
        kind = np.int8 if bits == 8 else np.int16
        data = imagecodecs.jpeg2k_encode(
            samples.astype(kind), bitspersample=bits, level=0, codecformat="J2K"
        )
        out, info = decode(data)
        assert np.abs(out - (levels if levels.ndim == 3 else levels[..., None])).max() <= 1
        assert info.depth_scaled == (bits == 16)


def test_jpeg_2000_is_decoded_by_level():
    data = encode(photo(5, (1600, 1200)), "JPEG2000")
    fast, info = decode(data)
    whole, _ = decode(data, PreprocessSpec(height=48, width=64, dct_margin=0))
    assert 0 < np.abs(fast - whole).mean() < 6
    assert (info.width, info.height) == (1600, 1200)


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


@pytest.mark.parametrize("kind", ["TGA", "PCX", "ICO", "QOI", "SGI", "DDS"])
def test_more_formats_of_pillow(kind):
    image = photo(6) if kind != "ICO" else photo(6).convert("RGBA")
    out, info = decode(encode(image, kind, **({"sizes": [SIZE]} if kind == "ICO" else {})))
    assert info.format == kind
    assert np.abs(out - np.asarray(photo(6))).mean() < 3


@pytest.mark.parametrize(
    ("head", "most"), [(b"P5 64 48 255\n", 255), (b"P5\n# text\n64 48\n65535\n", 65535),
                       (b"P5 64 48 1023\n", 1023), (b"P2 64 48 200\n", 200),
                       (b"P7\nWIDTH 64\nHEIGHT 48\nDEPTH 1\nMAXVAL 255\nENDHDR\n", 255)],
)  # fmt: skip
def test_netpbm_of_every_depth(head, most):
    grey = np.asarray(smooth().convert("L")).astype(np.float64)
    samples = np.round(grey * most / 255).astype(np.uint16)
    if head.startswith(b"P2"):
        body = b" ".join(str(value).encode() for value in samples.ravel())
    else:
        body = samples.astype(">u2" if most > 255 else "u1").tobytes()
    out, _ = decode(head + body)
    assert np.abs(out[..., 0] - grey).max() <= 1
    assert status_of((head + body)[:-10]) == "truncated"


def test_jpeg_xl_as_it_was_written():
    imagecodecs = pytest.importorskip("imagecodecs")
    for size in (SIZE, (256, 256), (37, 11), (1000, 40)):
        pixels = np.asarray(photo(2, size))
        data = imagecodecs.jpegxl_encode(pixels, lossless=True)
        _, info = decode(data)
        assert (info.width, info.height) == size
    out, _ = decode(imagecodecs.jpegxl_encode(np.asarray(photo(2)), lossless=True))
    np.testing.assert_array_equal(out, np.asarray(photo(2)))


KNOWN = {
    b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x00": "CR3", b"FUJIFILMCCD-RAW ": "RAF",
    b"IIRO\x08\x00\x00\x00": "ORF", b"IIU\x00\x18\x00\x00\x00": "RW2",
    b"\x00\x00\x00\x18ftypqt  \x00\x00\x00\x00": "QuickTime video",
    b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00": "MP4 video", b"%PDF-1.7": "PDF",
    b"\x1a\x45\xdf\xa3\x01": "Matroska or WebM video", b"PK\x03\x04": "ZIP archive",
    b"Rar!\x1a\x07\x00": "RAR archive", b"7z\xbc\xaf\x27\x1c": "7-Zip archive",
    bytes(128) + b"DICM\x02\0" + bytes(20): "DICOM", b"II*\0" + bytes(124) + b"DICM\2\0": "DICOM",
    b"\x08\0\x05\0\x0a\0\0\0ISO_IR 1": "DICOM", b"P7 332\n": "XV thumbnail",
    b"\x20\0\0\0\x12\xaf" + bytes(26): "FLI", b"FORM\0\0\0\x08ILBM": "IFF image",
    (b"G" + bytes(187)) * 3: "MPEG video", b"\0junk before %PDF-1.4": "PDF",
    b"RIFF\x00\x00\x00\x00AVI LIST": "AVI video",
}  # fmt: skip


@pytest.mark.parametrize("data", KNOWN, ids=KNOWN.values())
def test_known_files_are_named_and_never_called_no_image(data):
    assert identify(data) == KNOWN[data]
    assert status_of(data) in ("unsupported_format", "decode_error", "truncated")


@pytest.mark.parametrize("brand", ["heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "mif2"])
def test_every_brand_of_heif_is_known(brand):
    assert identify(b"\x00\x00\x00\x18ftyp" + brand.encode() + bytes(12)) == "HEIF"


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    import sys

    imagecodecs = pytest.importorskip("imagecodecs")
    data = imagecodecs.jpegxl_encode(np.asarray(photo(2)))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"imagecensus\[formats\]") as caught:
        decode(data)
    assert caught.value.status == "unsupported_format"


def test_what_the_camera_wrote():
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0132] = "Maker", "Model 3", "2020:01:02 03:04:05"
    exif.get_ifd(0x8825).update({1: "S", 2: (10.0, 30.0, 0.0), 3: "W", 4: (20.0, 15.0, 36.0)})
    data = encode(photo(1), "JPEG", exif=exif)
    _, info = decode(data)
    assert (info.taken_at, info.camera) == ("2020:01:02 03:04:05", "Maker Model 3")
    assert info.latitude is None and info.longitude is None
    _, info = decode(data, gps=True)
    assert (info.latitude, info.longitude) == (-10.5, -20.26)


def test_the_page_of_formats_is_what_the_table_says():
    from imagecensus.model_export.decoding.formats_page import page

    written = pathlib.Path(__file__).parents[2] / "docs" / "formats.md"
    assert written.read_text() == page()  # else: make formats-page


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


def test_a_tiff_that_says_two_sizes_is_damaged():
    """One library takes the first and another the last: the limits would look at the wrong one."""
    data = bytearray(encode(smooth(), "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, first)[0]):
        at = first + 2 + 12 * i
        if struct.unpack_from("<H", data, at)[0] == 262:
            struct.pack_into("<HHII", data, at, 257, 4, 1, 4_000_000_000)
    assert status_of(bytes(data)) == "decode_error"
