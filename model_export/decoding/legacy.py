"""How models from before `decoding: 2` see images: bit for bit as ever, but for what was garbage.

Their depth, orientation of TIFFs, pages and colours are Pillow's own; whatever Pillow misread or
made up (see `_is_sound`), and the formats that it did not open, go through the table as for
new models.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from imagecensus.model_export.decoding import colour
from imagecensus.model_export.decoding.metadata import read_orientation
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened
from imagecensus.model_export.decoding.readers import jpeg, png, tiff_damage, tiff_tags
from imagecensus.model_export.decoding.signatures import identify

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")


def open_legacy(data: bytes) -> Opened | None:
    """None where the image is to be opened as for new models."""
    name = identify(data)
    if name not in _FORMATS:
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (UnidentifiedImageError, ValueError):
        return None
    if not _is_sound(image, data):
        return None

    def load(need: Need) -> LoadedImage:
        return _load(image, data, need)

    return Opened(format=image.format or name, width=image.width, height=image.height, load=load)


def _is_sound(image: Any, data: bytes) -> bool:
    if image.format in ("JPEG", "MPO"):
        frame = jpeg.read_frame(data)
        return frame is not None and frame.is_scalable
    if image.format == "JPEG2000":
        at = data.find(b"\xff\x4f\xff\x51")
        return image.mode in ("L", "I;16") or at < 0 or data[at + 42] & 0x7F < 8
    if image.format == "BMP":
        return int.from_bytes(data[30:34], "little") != 2
    if image.format == "TIFF":
        planar = image.tag_v2.get(tiff_tags.PLANAR, 1) == 2
        return not (planar and max(image.tag_v2.get(tiff_tags.BITS, (1,))) > 8)
    return True


def _load(image: Image.Image, data: bytes, need: Need) -> LoadedImage:
    if image.format in ("JPEG", "MPO"):
        orientation = _orientation(image)
        image.draft(None, need(orientation))
        image.load()
    elif image.format == "TIFF":
        orientation = _orientation(image)  # and Pillow turns it too
        tiff_damage.listen_to_libtiff()
        with tiff_damage.damage_raised():
            tiff_damage.check_data(data, tiff_tags.read_tiff(data).pages[0])
            image.load()
    else:
        image.load()
        if image.format == "PNG":
            png.check_sums(data)
        orientation = _orientation(image)
    return LoadedImage(image=_to_eight_bit(image), orientation=orientation, exif=_exif(image))


def _exif(image: Image.Image) -> Image.Exif | None:
    try:
        return image.getexif()
    except Exception:
        return None


def _orientation(image: Image.Image) -> int:
    return read_orientation(_exif(image))


def _to_eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        pixels = np.nan_to_num(np.asarray(image), nan=0.0, posinf=255.0, neginf=0.0)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if image.mode.startswith("I"):  # I;16, I;16B, I;16L, I: 16-bit samples
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray((pixels.clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "LAB":
        return image.convert("RGB")
    return colour.flatten(image)
