"""JPEG 2000, by Pillow at a lower resolution level, and by imagecodecs where Pillow misreads it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, unsupported
from imagecensus.model_export.decoding.metadata import Exif, exif_of, read_orientation
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers.pillow_reader import describe, open_with_pillow

_EXIF = b"JpgTiffExif->JP2"  # the name of the box
_SIGNED = 0x80


def open_jpeg2000(data: bytes) -> Opened:
    """JPEG 2000: by resolution level where it is much larger than needed."""
    try:
        depths, levels = _read_codestream(data)
    except (ValueError, IndexError):
        raise ImageError("decode_error", "the JPEG2000 header is damaged", "JPEG2000") from None
    image = open_with_pillow(data, "JPEG2000")
    bits = [(one & 0x7F) + 1 for one in depths]
    if max(depths) & _SIGNED or (max(bits) > 8 and len(bits) > 1):
        return _open_deep_jpeg2000(data, image, depths)

    def load(need: Need) -> LoadedImage:
        exif = _exif(data)
        orientation = read_orientation(exif)
        picture_need, level = need(orientation), 0
        while level < min(levels, 8) and all(
            side >> (level + 1) >= least
            for side, least in zip(image.size, picture_need, strict=True)
        ):
            level += 1
        setattr(image, "reduce", level)  # noqa: B010 — an attribute of this plugin alone
        image.load()
        if image.mode.startswith("I") and max(bits) < 16:  # Pillow spreads them over 16 bits
            pixels, _ = depth.to_eight_bits(np.asarray(image), (0, 65535))
            loaded = LoadedImage(image=from_pixels(pixels, colours=1))
        else:
            loaded = describe(_stretched(image, bits))
        loaded.exif, loaded.orientation = exif, orientation
        return loaded

    return Opened(format="JPEG2000", width=image.width, height=image.height, load=load)


def _stretched(image: Image.Image, bits: list[int]) -> Image.Image:
    """The image with bands of under 8 bits, which Pillow shifts up only, up to 255."""
    if min(bits) >= 8 or len(bits) != len(image.getbands()) or image.mode == "P":
        return image
    bands = [
        band.point([(level >> 8 - depth) * 255 // ((1 << depth) - 1) for level in range(256)])
        if depth < 8
        else band
        for band, depth in zip(image.split(), bits, strict=True)
    ]
    made = Image.merge(image.mode, bands)
    made.info, made.format = image.info, image.format
    return made


def _read_codestream(data: bytes) -> tuple[list[int], int]:
    """Bits of each component less 1, with `_SIGNED`, and how often the size can be halved."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise ValueError
    count = int.from_bytes(data[at + 40 : at + 42], "big")
    depths = [data[at + 42 + 3 * i] for i in range(count)]
    if not depths:
        raise ValueError
    style = data.find(b"\xff\x52", at)
    levels = data[style + 9] if style > 0 else 0
    return depths, levels


def _exif(data: bytes) -> Exif | None:
    """From the box that ExifTool and others write."""
    at = data.find(_EXIF)
    if at < 8:
        return None
    size = int.from_bytes(data[at - 8 : at - 4], "big")
    return exif_of(data[at + len(_EXIF) : at - 8 + size])


def _open_deep_jpeg2000(data: bytes, image: Image.Image, depths: list[int]) -> Opened:
    bits = (max(depths) & 0x7F) + 1
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra("JPEG2000", f"JPEG2000 of {bits} bits a sample") from None
    if len(set(depths)) > 1:
        raise unsupported("JPEG2000", "JPEG2000 of uneven samples is not read here")
    black = -(1 << (bits - 1)) if depths[0] & _SIGNED else 0
    stated = (float(black), float(black + (1 << bits) - 1)) if bits < 16 else None

    def load(need: Need) -> LoadedImage:
        samples = imagecodecs.jpeg2k_decode(data)
        colours = 3 if len(depths) >= 3 else 1
        pixels, scaled = depth.to_eight_bits(samples, stated, colours=colours)
        exif = _exif(data)
        return LoadedImage(
            image=from_pixels(pixels, colours),
            orientation=read_orientation(exif),
            exif=exif,
            icc=image.info.get("icc_profile"),
            depth_scaled=scaled,
        )

    return Opened(format="JPEG2000", width=image.width, height=image.height, load=load)
