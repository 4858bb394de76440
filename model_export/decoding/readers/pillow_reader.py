"""The formats that Pillow reads right: opened by it, then made 8 bits, L or RGB."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from imagecensus.model_export.decoding import colour, depth
from imagecensus.model_export.decoding.depth import Pixels
from imagecensus.model_export.decoding.errors import ImageError, truncated
from imagecensus.model_export.decoding.metadata import read_orientation
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels

_MAX_ICC = 16 << 20
_DDS_HEADER = 128


def open_with_pillow(data: bytes, name: str, plugin: str | None = None) -> Image.Image:
    """The image with its header read. Raises ImageError."""
    try:
        return Image.open(io.BytesIO(data), formats=(plugin or name,))
    except UnidentifiedImageError:
        raise ImageError("decode_error", f"the {name} header is damaged", name) from None


def open_plain(data: bytes, name: str, plugin: str | None = None, number: int = 0) -> Opened:
    """Any format of 8 bits a sample; of an animation the first frame, or that of the number."""
    image = open_with_pillow(data, name, plugin)

    def load(need: Need) -> LoadedImage:
        if number:
            image.seek(number - 1)
        image.load()
        loaded = describe(image)
        loaded.pages = 1 if number else loaded.pages
        return loaded

    return Opened(format=name, width=image.width, height=image.height, load=load)


def describe(image: Image.Image) -> LoadedImage:
    """A loaded image of Pillow's as an image. EXIF is asked for after loading: asking loads."""
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
    return LoadedImage(
        image=flat,
        orientation=read_orientation(exif),
        icc=icc if image.mode not in ("CMYK", "LAB") else None,
        exif=exif,
        pages=count_frames(image),
        depth_scaled=scaled,
    )


def fill_depth(
    loaded: LoadedImage,
    image: Image.Image,
    open_again: Callable[[], Image.Image],
    stated: depth.Range | None = None,
) -> None:
    """Sees that colour of 16 bits a sample is seen by `depth`'s rule.

    Pillow keeps the high bytes, which is right where they are filled; else the image gets an
    image of both. `stated`: (black, white) that the file states.
    """
    high = np.asarray(image)[..., :3]
    filled = high.max(initial=0) >= 128 and int(high.max()) - int(high.min()) >= 32
    if filled and stated is None:
        return
    samples = read_both_bytes(open_again)
    colours = 1 if samples.shape[2] == 2 else 3
    pixels, loaded.depth_scaled = depth.to_eight_bits(samples, stated, colours=colours)
    loaded.image = from_pixels(pixels, colours)


def read_both_bytes(open_again: Callable[[], Any]) -> Pixels:
    """Colour of 16 bits a sample, of which Pillow keeps the high bytes: uint16 [H, W, S].

    Its decoder is asked twice, the second time as if the bytes of each sample were swapped.
    `open_again` gives the image with its header read, each time anew.
    """
    high, low = open_again(), open_again()
    if high.tile[0].args == "LA;16B":  # has no swapped form: its 4 bytes as those of RGBA
        high.tile = [tile._replace(args="RGBA") for tile in high.tile]
        parts = np.asarray(high).astype(np.uint16)
        both: Pixels = parts[..., 0::2] << 8 | parts[..., 1::2]
        return both
    low.tile = [tile._replace(args=_swapped(tile.args)) for tile in low.tile]
    samples: Pixels = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    return samples


def _swapped(args: Any) -> Any:
    """What a tile of Pillow's says to its decoder, with the other order of bytes."""
    if not isinstance(args, str):
        return (_swapped(args[0]), *args[1:])
    native = "L" if sys.byteorder == "little" else "B"
    order = args[-1].replace("N", native)
    return args[:-1] + ("B" if order == "L" else "L")


def count_frames(image: Image.Image) -> int | None:
    """None where counting breaks off. The image's own pixels may be lost."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        return None


def open_dds(data: bytes) -> Opened:
    """DDS. Its uncompressed colours by NumPy: Pillow takes them pixel by pixel, in Python."""
    image: Any = open_with_pillow(data, "DDS")
    tile = image.tile[0]
    if tile.codec_name != "dds_rgb" or tile.args[0] not in (8, 16, 24, 32):
        return open_plain(data, "DDS")
    bits, masks = tile.args

    def load(need: Need) -> LoadedImage:
        count, size = image.width * image.height, bits // 8
        content = np.frombuffer(data, np.uint8, offset=_DDS_HEADER)[: count * size]
        if content.size < count * size:
            raise truncated("DDS", "its pixels are cut")
        values = np.zeros((count, 4), np.uint8)
        values[:, :size] = content.reshape(count, size)
        colours = [levels_of_mask(values.view("<u4")[:, 0], mask) for mask in masks]
        samples = np.stack(colours, -1).reshape(image.height, image.width, -1)
        return LoadedImage(image=from_pixels(samples, colours=3))

    return Opened(format="DDS", width=image.width, height=image.height, load=load)


def levels_of_mask(values: Pixels, mask: int) -> Pixels:
    """The bits of a mask as 8-bit levels."""
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    levels = (values & mask) >> shift
    return (levels if most == 255 else levels * (255.0 / most)).astype(np.uint8)
