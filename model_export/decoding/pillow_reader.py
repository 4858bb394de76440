"""The formats that Pillow reads right: opened by it, then made 8 bits, L or RGB."""

from __future__ import annotations

import contextlib
import io
import zlib

import numpy as np
from PIL import Image

from imagecensus.model_export.decoding import colour, depth
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, unsupported
from imagecensus.model_export.decoding.metadata import read_orientation
from imagecensus.model_export.decoding.opened import Need, Opened, Picture, from_pixels

_MAX_ICC = 16 << 20
_RLE4 = 2


def open_with_pillow(data: bytes, name: str, plugin: str | None = None) -> Image.Image:
    """The image with its header read. Raises ImageError."""
    try:
        return Image.open(io.BytesIO(data), formats=(plugin or name,))
    except Image.UnidentifiedImageError:
        raise ImageError("decode_error", f"the {name} header is damaged", name) from None


def open_plain(data: bytes, name: str, plugin: str | None = None) -> Opened:
    """Any format of 8 bits a sample."""
    image = open_with_pillow(data, name, plugin)

    def load(need: Need) -> Picture:
        image.load()
        return describe(image)

    return Opened(format=name, width=image.width, height=image.height, load=load)


def describe(image: Image.Image, deep: bool = False) -> Picture:
    """A loaded image of Pillow's as a picture. EXIF is asked for after loading: asking loads."""
    exif = None
    if "exif" in image.info or "xmp" in image.info or image.format in ("PNG", "TIFF"):
        with contextlib.suppress(Exception):  # a broken block is no reason to lose a good image
            exif = image.getexif()
    icc = image.info.get("icc_profile")
    scaled = False
    if image.mode.startswith(("I", "F")):
        pixels, scaled = depth.to_eight_bits(np.asarray(image))
        flat = from_pixels(pixels, colours=1)
    else:
        flat = colour.flatten(image, icc)
    return Picture(
        image=flat,
        orientation=read_orientation(exif),
        icc=icc if image.mode not in ("CMYK", "LAB") else None,
        exif=exif,
        pages=count_frames(image),
        depth_scaled=scaled,
    )


def count_frames(image: Image.Image) -> int | None:
    """None where counting breaks off. The image's own pixels may be lost."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        return None


def open_bmp(data: bytes) -> Opened:
    if data[14:18] == b"\x28\x00\x00\x00" and int.from_bytes(data[30:34], "little") == _RLE4:
        raise unsupported("BMP", "BMP packed as RLE4 is not read here")  # Pillow garbles it
    try:
        return open_plain(data, "BMP")
    except ImageError:
        if len(data) < 54:
            raise
        raise unsupported("BMP", "BMP of this kind is not read here") from None


def open_png(data: bytes) -> Opened:
    """PNG, also where its texts or profile unpack to more than Pillow's limits."""
    try:
        image = open_with_pillow(data, "PNG")
        bulky = False
    except ValueError:
        image, bulky = open_with_pillow(_without_texts(data), "PNG"), True
    size, bits = image.size, data[24]

    def load(need: Need) -> Picture:
        nonlocal image, bulky
        try:
            image.load()
        except ValueError as error:
            if "too large" not in str(error):
                raise
            image, bulky = open_with_pillow(_without_texts(data), "PNG"), True
            image.load()
        if bulky:
            image.info.setdefault("icc_profile", _profile(data))
        picture = describe(image)
        if bits == 16 and not image.mode.startswith("I"):
            _check_high_bytes(image, picture, data)
        return picture

    return Opened(format="PNG", width=size[0], height=size[1], load=load)


def _check_high_bytes(image: Image.Image, picture: Picture, data: bytes) -> None:
    """Colour of 16 bits: Pillow keeps the high bytes, which is right where they are filled."""
    colours = 1 if image.mode.startswith("L") else 3
    high = np.asarray(image).reshape(image.height, image.width, -1)[..., :colours]
    if high.max(initial=0) >= 128 and int(high.max()) - int(high.min()) >= 32:
        return
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra("PNG", "PNG whose 16 bits a sample are not filled") from None
    samples = imagecodecs.png_decode(data)
    pixels, picture.depth_scaled = depth.to_eight_bits(samples, colours=colours)
    picture.image = from_pixels(pixels, colours)


def _chunks(data: bytes):
    """(type, start, end) of each chunk of a PNG."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield bytes(data[at + 4 : at + 8]), at, at + 12 + size
        at += 12 + size


def _without_texts(data: bytes) -> bytes:
    kept = [data[:8]]
    kept += [
        data[start:end]
        for kind, start, end in _chunks(data)
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
    ]
    return b"".join(kept)


def _profile(data: bytes) -> bytes | None:
    for kind, start, end in _chunks(data):
        if kind == b"iCCP":
            packed = data[start + 8 : end - 4].partition(b"\x00")[2][1:]
            try:
                return zlib.decompressobj().decompress(packed, _MAX_ICC)
            except zlib.error:
                return None
    return None


def open_psd(data: bytes) -> Opened:
    """The flattened image. Its fourth channel is transparency only where the file says so."""
    try:
        image = open_with_pillow(data, "PSD")
    except ImageError:
        raise unsupported("PSD", "PSD of this depth or colour mode is not read here") from None

    def load(need: Need) -> Picture:
        image.load()
        if image.mode == "RGBA" and not _psd_is_transparent(data):
            opaque = image.convert("RGBA")
            opaque.putalpha(255)
            opaque.info = dict(image.info)
            opaque.format = image.format
            picture = describe(opaque)
        else:
            picture = describe(image)
        picture.pages = 1  # Pillow counts layers
        return picture

    return Opened(format="PSD", width=image.width, height=image.height, load=load)


def _psd_is_transparent(data: bytes) -> bool:
    at = 26
    for _ in range(2):  # colour mode data, image resources
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    # Lengths of the layer and mask section and of its layers, then their number: below 0 where
    # the first channel beyond the colours is the transparency of all.
    layers = int.from_bytes(data[at + 4 : at + 8], "big")
    return layers > 0 and int.from_bytes(data[at + 8 : at + 10], "big", signed=True) < 0


def open_jpeg2000(data: bytes) -> Opened:
    """JPEG 2000: by resolution level where it is much larger than needed."""
    try:
        bits, signed, levels = _read_codestream(data)
    except (ValueError, IndexError):
        raise ImageError("decode_error", "the JPEG2000 header is damaged", "JPEG2000") from None
    image = open_with_pillow(data, "JPEG2000")
    if signed or (max(bits) > 8 and len(bits) > 1):
        return _open_deep_jpeg2000(data, image, bits, signed)

    def load(need: Need) -> Picture:
        picture_need, level = need(1), 0
        while level < min(levels, 8) and all(
            side >> (level + 1) >= least
            for side, least in zip(image.size, picture_need, strict=True)
        ):
            level += 1
        image.reduce = level
        image.load()
        if image.mode.startswith("I") and max(bits) < 16:  # Pillow spreads them over 16 bits
            pixels, _ = depth.to_eight_bits(np.asarray(image), (0, 65535))
            return Picture(image=from_pixels(pixels, colours=1), pages=1)
        return describe(image)

    return Opened(format="JPEG2000", width=image.width, height=image.height, load=load)


def _read_codestream(data: bytes) -> tuple[list[int], bool, int]:
    """Bits of each component, whether one is signed, and how often the size can be halved."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise ValueError
    count = int.from_bytes(data[at + 40 : at + 42], "big")
    depths = [data[at + 42 + 3 * i] for i in range(count)]
    if not depths:
        raise ValueError
    style = data.find(b"\xff\x52", at)
    levels = data[style + 9] if style > 0 else 0
    return [(d & 0x7F) + 1 for d in depths], any(d & 0x80 for d in depths), levels


def _open_deep_jpeg2000(data, image: Image.Image, bits: list[int], signed: bool) -> Opened:
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra("JPEG2000", f"JPEG2000 of {max(bits)} bits a sample") from None
    if signed or len(set(bits)) > 1:
        raise unsupported("JPEG2000", "JPEG2000 of signed or uneven samples is not read here")

    def load(need: Need) -> Picture:
        samples = imagecodecs.jpeg2k_decode(data)
        colours = 3 if len(bits) >= 3 else 1
        stated = (0, (1 << bits[0]) - 1) if bits[0] < 16 else None
        pixels, scaled = depth.to_eight_bits(samples, stated, colours=colours)
        return Picture(image=from_pixels(pixels, colours), depth_scaled=scaled)

    return Opened(format="JPEG2000", width=image.width, height=image.height, load=load)
