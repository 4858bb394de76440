"""Every photometric, depth, layout and byte order of TIFF that is read, against the writer."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from samples import photo
from seen import decode, encode, smooth, status_of

from imagecensus.model_export.preprocess import (
    ImageError,
    configure_pillow,
)

tifffile = pytest.importorskip("tifffile")


pytest.importorskip("imagecodecs")


configure_pillow()


IMAGE = photo(3, (128, 96)).resize((64, 48))


RGB = np.array(IMAGE)


RGB[0, 0], RGB[0, 1] = 255, 0  # so that the data fill their range


GREY = np.array(IMAGE.convert("L"))


GREY[0, 0], GREY[0, 1] = 255, 0


CONTAINERS = [
    {"byteorder": order, "bigtiff": big} for order, big in itertools.product("<>", (False, True))
]


COMPRESSIONS = (None, "lzw", "deflate", "packbits", "zstd", "lzma")


STRIPS = ({}, {"rowsperstrip": 7}, {"tile": (16, 16)})


def difference(expected, samples, **options):
    """The worst level by which what is seen differs from what was meant."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    expected = np.asarray(expected, float)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, -1)
    return np.abs(decode(buffer.getvalue())[0] - expected)


def every_layout(compressions=(None, "lzw", "deflate")):
    for container, compression, strips in itertools.product(CONTAINERS, compressions, STRIPS):
        yield {**container, **strips, "compression": compression}


def as_type(eight, dtype):
    """Pixels of 8 bits as samples of a type that fill its range."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (eight / 255).astype(kind)
    if kind.kind == "i":
        return eight.astype(kind)
    return (eight.astype(np.uint64) * (np.iinfo(kind).max // 255)).astype(kind)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("predictor", [False, True])
def test_depths(dtype, predictor):
    for layout in every_layout(COMPRESSIONS):
        if predictor and layout["compression"] in (None, "packbits"):
            continue
        layout["predictor"] = predictor
        rgb, grey = as_type(RGB, dtype), as_type(GREY, dtype)
        planes = np.moveaxis(rgb, -1, 0)
        assert difference(RGB, rgb, photometric="rgb", **layout).max() <= 1
        assert difference(GREY, grey, photometric="minisblack", **layout).max() <= 1
        separate = {"photometric": "rgb", "planarconfig": "separate", **layout}
        assert difference(RGB, planes, **separate).max() <= 1
        if dtype[0] == "u":
            white = np.iinfo(grey.dtype).max - grey
            assert difference(GREY, white, photometric="miniswhite", **layout).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 9, 10, 12, 14, 15, 24, 31])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
def test_packed_bits(photometric, order, bits):
    eight, most = RGB if photometric == "rgb" else GREY, (1 << bits) - 1
    values = np.round(eight / 255 * most).astype(np.int64)
    expected = values / most * 255
    data = packed_tiff(most - values if photometric == "miniswhite" else values, bits, order,
                       {"miniswhite": 0, "minisblack": 1, "rgb": 2}[photometric])  # fmt: skip
    expected = expected if photometric == "rgb" else np.repeat(expected[..., None], 3, -1)
    assert np.abs(decode(data)[0] - expected).max() < 1.01


def packed_tiff(values, bits: int, order: str, photometric: int, **more) -> bytes:
    """One strip of samples of so many bits, the rows beginning at bytes."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1)
    ones = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    body = np.packbits(ones.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    samples = rows.shape[1] // width
    return tiff_of(body, width, height, order, photometric, [bits] * samples, **more)


def tiff_of(body, width, height, order, photometric, bits, extra=()) -> bytes:
    """A TIFF of one strip, without a library."""
    at = 8 + len(body) + len(body) % 2
    tags = {
        256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, [8]), 277: (3, [len(bits)]), 278: (4, [height]),
        279: (4, [len(body)]), **dict(extra),
    }  # fmt: skip
    behind, entries = at + 6 + 12 * len(tags), b""
    room = b""
    for number, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            place = struct.pack(order + "I", behind + len(room))
            room += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", number, kind, len(values)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    directory = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return head + body + bytes(len(body) % 2) + directory + room


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("across", "down"), [(2, 2), (2, 1), (4, 1), (4, 4), (1, 1)])
def test_ycbcr_with_fewer_samples_of_colour(across, down, order):
    colours = np.asarray(IMAGE.convert("YCbCr")).astype(int)
    blocks = colours.reshape(48 // down, down, 64 // across, across, 3).swapaxes(1, 2)
    light = blocks[..., 0].reshape(48 // down, 64 // across, -1)
    mean = blocks[..., 1:].mean((2, 3)).round()
    body = np.dstack([light, mean]).astype(np.uint8).tobytes()
    data = tiff_of(body, 64, 48, order, 6, [8, 8, 8], [(530, (3, [across, down]))])
    wide = np.dstack([colours[..., 0], *np.moveaxis(mean.repeat(down, 0).repeat(across, 1), -1, 0)])
    expected = Image.fromarray(wide.astype(np.uint8), "YCbCr").convert("RGB")
    assert np.abs(decode(data)[0] - np.asarray(expected).astype(int)).max() <= 4


@pytest.mark.parametrize("kind", ["8 bits", "values of 8 bits", "16 bits", "4 bits"])
def test_palettes(kind):
    indexed = IMAGE.quantize(16 if kind == "4 bits" else 200)
    index = np.asarray(indexed)
    colours = np.array(indexed.getpalette(), np.uint16).reshape(-1, 3)
    expected = colours[index]
    table = np.zeros((3, {"16 bits": 65536, "4 bits": 16}.get(kind, 256)), np.uint16)
    count = min(len(colours), table.shape[1])
    table[:, :count] = colours[:count].T * (1 if kind == "values of 8 bits" else 257)
    if kind == "4 bits":
        for order in "<>":
            extra = [(320, (3, table.ravel().tolist()))]
            data = packed_tiff(index.astype(int), 4, order, 3, extra=extra)
            assert np.abs(decode(data)[0] - expected.astype(int)).max() <= 1
        return
    samples = index.astype(np.uint16 if kind == "16 bits" else np.uint8)
    for layout in every_layout():
        found = difference(expected, samples, photometric="palette", colormap=table, **layout)
        assert found.max() <= 1


@pytest.mark.parametrize("alpha", ["unassalpha", "unspecified"])
@pytest.mark.parametrize("colours", ["rgb", "minisblack", "separated"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_further_samples(colours, alpha, dtype):
    """Alpha over white, and what is no alpha without any effect."""
    share = np.full(GREY.shape, 255, np.uint8)
    share[:10], share[10:20] = 0, 100
    inks = np.dstack([255 - RGB, np.zeros_like(GREY)])
    eight = {"rgb": RGB, "minisblack": GREY, "separated": inks}[colours]
    shown = (GREY if colours == "minisblack" else RGB).astype(float)
    if alpha == "unassalpha":
        part = share / 255 if shown.ndim == 2 else share[..., None] / 255
        shown = shown * part + 255 * (1 - part)
    samples = as_type(np.dstack([eight, share]), dtype)
    for layout in every_layout():
        options = {"photometric": colours, "extrasamples": [alpha], **layout}
        assert difference(shown, samples, **options).max() <= 3
        if colours != "minisblack":
            planes = np.moveaxis(samples, -1, 0)
            assert difference(shown, planes, planarconfig="separate", **options).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk(bits):
    inks = as_type(np.dstack([255 - RGB, np.zeros_like(GREY)]), f"u{bits // 8}")
    for layout in every_layout():
        assert difference(RGB, inks, photometric="separated", **layout).max() <= 2
        planes = np.moveaxis(inks, -1, 0)
        layout["planarconfig"] = "separate"
        assert difference(RGB, planes, photometric="separated", **layout).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["cielab", 9])
def test_lab(photometric, bits):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(IMAGE, srgb, lab, outputMode="LAB")
    signed = np.asarray(image).astype(np.int32)  # a and b as CIE's: signed bytes
    if photometric == 9:
        signed[..., 1:] ^= 0x80
    samples = signed.astype(np.uint8)
    if bits == 16:
        full = 65280 if photometric == 9 else 65535
        light = signed[..., :1] * full // 255
        samples = np.dstack([light, signed[..., 1:] << 8]).astype(np.uint16)
    for layout in every_layout():
        assert difference(np.asarray(IMAGE), samples, photometric=photometric, **layout).mean() < 1


@pytest.mark.parametrize(
    ("compression", "dtypes", "options"),
    [
        ("lerc", ("u1", "u2", "f4"), {}), ("jpegxl", ("u1", "u2", "f4"), {"lossless": True}),
        ("jpegxr", ("u1", "u2", "f4"), {"level": 1.0}), ("png", ("u1", "u2"), {}),
        ("jpeg2000", ("u1", "u2"), {}), ("webp", ("u1",), {"lossless": True}),
    ],
)  # fmt: skip
def test_compressions_of_other_formats(compression, dtypes, options):
    for dtype, container, strips in itertools.product(dtypes, CONTAINERS, STRIPS):
        if dtype != "u1" and container["byteorder"] == ">":
            continue  # tifffile does not write these, with imagecodecs of every Python
        layout = {"compression": compression, "photometric": "rgb", **container, **strips}
        found = difference(RGB, as_type(RGB, dtype), compressionargs=options, **layout)
        assert found.max() <= 1


def test_the_range_that_a_page_states_is_used():
    most = (281, "H", 3, (1023, 1023, 1023), True)
    least = (280, "H", 3, (0, 0, 0), True)
    samples = RGB.astype(np.uint16) * 2  # half of the range
    found = difference(RGB * (510 / 1023), samples, photometric="rgb", extratags=[least, most])
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (RGB, {"photometric": 10}),  # ITU's Lab
        (np.stack([RGB] * 3), {"photometric": "rgb", "volumetric": True, "tile": (2, 16, 16)}),
        (as_type(np.dstack([RGB, GREY]), "f4"), {"photometric": "separated"}),
    ],
)
def test_what_is_not_read_is_said_to_be_unsupported(samples, options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    with pytest.raises(ImageError) as caught:
        decode(buffer.getvalue())
    assert caught.value.status == "unsupported_format"


def test_eight_bits_are_shown_as_they_are_whatever_is_said_of_their_sign():
    for options in every_layout():
        options["photometric"] = "minisblack"
        assert difference(GREY, GREY.view(np.int8), **options).max() == 0
        options["photometric"] = "rgb"
        assert difference(RGB, RGB.view(np.int8), **options).max() == 0


def test_a_palette_with_alpha():
    palette = IMAGE.quantize(256)
    table = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:, :20] = 0
    expected = np.where(alpha[..., None] == 255, table[np.asarray(palette)], 255)
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, : len(table)] = table.T.astype(np.uint16) * 257
    samples = np.dstack([np.asarray(palette), alpha])
    for options in every_layout():
        tags = [(320, "H", 768, colormap.ravel().tolist(), True)]
        data = io.BytesIO()
        tifffile.imwrite(
            data, samples, photometric="minisblack", planarconfig="contig",
            extrasamples=["unassalpha"], extratags=tags, **options,
        )  # fmt: skip
        changed = data.getvalue()
        tiff = tifffile.TiffFile(io.BytesIO(changed))
        tag = tiff.pages[0].tags[262]
        order = "little" if options["byteorder"] == "<" else "big"
        at = tag.valueoffset
        changed = changed[:at] + (3).to_bytes(2, order) + changed[at + 2 :]
        assert np.abs(decode(changed)[0] - expected).max() == 0


def test_more_strips_than_rows_need_are_damage_where_the_first_is_too_short():
    data = io.BytesIO()
    tifffile.imwrite(data, RGB, photometric="rgb", rowsperstrip=4)
    changed = bytearray(data.getvalue())
    tag = tifffile.TiffFile(io.BytesIO(changed)).pages[0].tags[278]
    size = {3: 2, 4: 4}[int(tag.dtype)]
    changed[tag.valueoffset : tag.valueoffset + size] = (30_000).to_bytes(size, "little")
    with pytest.raises(ImageError) as caught:
        decode(bytes(changed))
    assert caught.value.status == "decode_error"


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("extra", ["assocalpha", "unassalpha", "unspecified"])
def test_a_fourth_sample_is_alpha_where_the_file_says_so(planar, extra):
    alpha = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), GREY.shape)
    share = alpha[..., None] / 255
    seen = RGB if extra == "unspecified" else RGB * share + 255 * (1 - share)
    colours = np.rint(RGB * share).astype(np.uint8) if extra == "assocalpha" else RGB
    samples = np.dstack([colours, alpha])
    for dtype, options in itertools.product(("u1", "u2", "f4"), every_layout((None, "lzw"))):
        if planar == "separate" and "rowsperstrip" in options:
            continue
        there = as_type(samples, dtype)
        there = np.moveaxis(there, -1, 0) if planar == "separate" else there
        found = difference(
            seen, there, photometric="rgb", planarconfig=planar, extrasamples=[extra], **options
        )
        assert found.max() <= 2, (dtype, options)


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


def test_a_tiff_that_says_two_sizes_is_damaged():
    """One library takes the first and another the last: the limits would look at the wrong one."""
    data = bytearray(encode(smooth(), "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, first)[0]):
        at = first + 2 + 12 * i
        if struct.unpack_from("<H", data, at)[0] == 262:
            struct.pack_into("<HHII", data, at, 257, 4, 1, 4_000_000_000)
    assert status_of(bytes(data)) == "decode_error"
