"""DICOM, by pydicom, with imagecodecs for what is compressed."""

from __future__ import annotations

import io
from typing import Any

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, unsupported
from imagecensus.model_export.decoding.opened import Need, Opened, Picture, from_pixels


def open_dicom(data: bytes) -> Opened:
    """The first frame, as its own tags say it is to be shown."""
    try:
        import pydicom
    except ImportError:
        raise needs_extra("DICOM") from None
    try:
        file = pydicom.dcmread(io.BytesIO(data))
    except Exception as error:
        raise ImageError("decode_error", f"the DICOM header is damaged: {error}", "DICOM") from None
    if "PixelData" not in file or "Rows" not in file:
        raise unsupported("DICOM", "a DICOM file without pixels")
    width, height = int(file.Columns), int(file.Rows)

    def load(need: Need) -> Picture:
        from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

        try:
            samples = pixel_array(file, index=0)
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            raise unsupported("DICOM", f"DICOM of this kind is not read here: {error}") from None
        frames = int(file.get("NumberOfFrames", 1) or 1)
        if samples.ndim == 3:
            full = (0.0, float((1 << int(file.BitsStored)) - 1))
            pixels, _scaled = depth.to_eight_bits(samples, full)
            return Picture(image=from_pixels(pixels, colours=3), pages=frames)
        inverted = file.PhotometricInterpretation == "MONOCHROME1"
        samples = apply_modality_lut(samples, file)
        center = file.get("WindowCenter")
        windowed = apply_voi_lut(samples, file) if center is not None else samples
        low, high = float(windowed.min()), float(windowed.max())
        stated: depth.Range | None = None
        if center is not None and "VOILUTSequence" not in file:
            bits = int(file.BitsStored)
            span = _window_range(bits, bool(file.PixelRepresentation), file)
            low, high = span
            stated = (low, high)
        if stated is None and file.BitsStored != 8:
            stated = (low, high)  # no window: from the smallest to the largest value
        pixels, _ = depth.to_eight_bits(windowed, stated, inverted)
        return Picture(
            image=from_pixels(pixels, colours=1), pages=frames, depth_scaled=center is None
        )

    return Opened(format="DICOM", width=width, height=height, load=load)


def _window_range(bits: int, signed: bool, file: Any) -> tuple[float, float]:
    """The range that `apply_voi_lut` spreads a window over."""
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    if "ModalityLUTSequence" in file:
        return 0.0, float((1 << int(file.ModalityLUTSequence[0].LUTDescriptor[2])) - 1)
    slope, start = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    return low * slope + start, high * slope + start
