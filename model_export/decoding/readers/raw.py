"""Raw files of cameras, by rawpy (LibRaw)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from imagecensus.model_export.decoding import colour
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, truncated, unsupported
from imagecensus.model_export.decoding.metadata import exif_of
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers import jpeg, tiff_tags

_FLIPS = {3: 3, 5: 8, 6: 6}  # LibRaw's number of a turn → EXIF's


def raw_tiff_name(data: bytes) -> str | None:
    """The name of the raw format, where a TIFF is a camera's raw file."""
    if data[8:10] == b"CR":
        return "CR2"
    try:
        tiff = tiff_tags.read_tiff(data)
    except tiff_tags.TagError:
        return None
    if not tiff.is_raw:
        return None
    return "DNG" if 50706 in tiff.pages[0].tags else "RAW"


def open_raw(data: bytes, name: str) -> Opened:
    """A camera's raw file: its largest preview where that is large enough, else developed."""
    try:
        import rawpy
    except ImportError:
        raise needs_extra(name, f"{name} (camera raw)") from None
    try:
        raw = rawpy.imread(io.BytesIO(data))
    except rawpy.LibRawError as error:
        raise _typed(error, rawpy, name) from None
    sizes = raw.sizes

    def load(need: Need) -> LoadedImage:
        with raw:
            orientation = _FLIPS.get(sizes.flip, 1)
            image = _preview(raw, rawpy, sizes)
            if image is None:
                half = all(
                    side // 2 >= least
                    for side, least in zip(
                        (sizes.width, sizes.height), need(orientation), strict=True
                    )
                )
                try:
                    pixels = raw.postprocess(use_camera_wb=True, user_flip=0, half_size=half)
                except rawpy.LibRawError as error:
                    raise _typed(error, rawpy, name) from None
                image = from_pixels(pixels, colours=3)
            return LoadedImage(image=image, orientation=orientation, exif=_raw_exif(data))

    return Opened(format=name, width=sizes.width, height=sizes.height, load=load)


def _typed(error: Exception, rawpy: Any, name: str) -> ImageError:
    """What LibRaw says, as the status of a row."""
    text = error.args[0] if error.args else ""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    if isinstance(error, rawpy.LibRawIOError):
        return truncated(name, "its raw data are cut")
    if isinstance(error, rawpy.LibRawDataError):
        return ImageError("decode_error", f"the raw data of the {name} are damaged: {text}", name)
    return unsupported(name, f"{name} (camera raw) of this kind is not read here: {text}")


def _raw_exif(data: bytes) -> Any:
    return exif_of(data) if data[:2] in (b"II", b"MM") else None


def _preview(raw: Any, rawpy: Any, sizes: Any) -> Any:
    """The embedded preview, where its sides are half of the raw's or more; else None."""
    try:
        thumb = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    if thumb.format == rawpy.ThumbFormat.BITMAP:
        image = from_pixels(np.asarray(thumb.data), colours=3)
    elif thumb.format == rawpy.ThumbFormat.JPEG:
        try:
            image = jpeg.open_pillow(thumb.data)
            image.load()
        except Exception:
            return None
        image = colour.flatten(image)
    else:
        return None
    return image if 2 * min(image.size) >= min(sizes.width, sizes.height) else None
