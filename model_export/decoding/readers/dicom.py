"""DICOM, by pydicom, with imagecodecs for what is compressed."""

from __future__ import annotations

import functools
import io
import logging
import re
from typing import Any

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.depth import Pixels
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, truncated, unsupported
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers import dicom_samples

_PACKED_PIXELS = re.compile(rb"\xe0\x7f\x10\x00O[BW]\x00\x00\xff\xff\xff\xff")
_END_OF_FRAMES = b"\xfe\xff\xdd\xe0"


def count_frames(data: bytes) -> int:
    """Frames of a file."""
    import pydicom

    _silence()
    file = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
    return int(file.get("NumberOfFrames", 1) or 1)


def open_dicom(data: bytes, number: int = 0) -> Opened:
    """The first frame, or that of the number, as its own tags say it is to be shown."""
    try:
        import pydicom
    except ImportError:
        raise needs_extra("DICOM") from None
    _silence()
    try:
        file = pydicom.dcmread(io.BytesIO(data), force=True)  # some lack the preamble
    except Exception as error:
        raise ImageError("decode_error", f"the DICOM header is damaged: {error}", "DICOM") from None
    if _PACKED_PIXELS.search(data) and _END_OF_FRAMES not in data[-4096:]:
        raise truncated("DICOM", "its last frame is cut")  # pydicom forgets all that was read
    if "Rows" not in file or "FloatPixelData" in file or "DoubleFloatPixelData" in file:
        raise unsupported("DICOM", "a DICOM file without pixels, or with those of a map")
    if "PixelData" not in file:
        raise truncated("DICOM", "its pixels are not there")
    width, height = int(file.Columns), int(file.Rows)

    def load(need: Need) -> LoadedImage:
        try:
            samples = dicom_samples.read_frame(file, max(number, 1) - 1)
        except (AttributeError, NotImplementedError) as error:
            raise unsupported("DICOM", f"DICOM of this kind is not read here: {error}") from None
        if samples.ndim == 3 or file.PhotometricInterpretation == "PALETTE COLOR":
            loaded = _in_colour(samples, file)
        else:
            loaded = _in_grey(samples, file)
        loaded.pages = 1 if number else int(file.get("NumberOfFrames", 1) or 1)
        return loaded

    return Opened(format="DICOM", width=width, height=height, load=load)


@functools.cache
def _silence() -> None:
    """pydicom sets the level of its logger when it is imported: what is wrong, the row says."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def _in_colour(samples: Pixels, file: Any) -> LoadedImage:
    from pydicom.pixels import apply_color_lut

    bits = int(file.BitsStored)
    if samples.ndim == 2:
        bits = int(file.RedPaletteColorLookupTableDescriptor[2])
        samples = apply_color_lut(samples, file)
    pixels, _ = depth.to_eight_bits(samples, (0.0, float((1 << bits) - 1)))
    return LoadedImage(image=from_pixels(pixels, colours=3))


def _in_grey(samples: Pixels, file: Any) -> LoadedImage:
    """By the window that the file states, or else from the smallest to the largest value."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    samples = apply_modality_lut(samples, file)
    stated: depth.Range | None = None
    windowed = file.get("WindowCenter") is not None
    if windowed:
        samples = apply_voi_lut(samples, file)
    if windowed and "VOILUTSequence" not in file:
        stated = _window_range(int(file.BitsStored), bool(file.PixelRepresentation), file)
    elif file.BitsStored != 8:
        stated = float(samples.min()), float(samples.max())
    inverted = file.PhotometricInterpretation == "MONOCHROME1"
    pixels, _ = depth.to_eight_bits(samples, stated, inverted)
    return LoadedImage(image=from_pixels(pixels, colours=1), depth_scaled=not windowed)


def _window_range(bits: int, signed: bool, file: Any) -> tuple[float, float]:
    """The range that `apply_voi_lut` spreads a window over."""
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    if "ModalityLUTSequence" in file:
        return 0.0, float((1 << int(file.ModalityLUTSequence[0].LUTDescriptor[2])) - 1)
    slope, start = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    return low * slope + start, high * slope + start
