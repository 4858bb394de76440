"""The samples of one frame of a DICOM file: plain ones by pydicom, the rest by imagecodecs."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from imagecensus.model_export.decoding.depth import Pixels
from imagecensus.model_export.decoding.errors import ImageError, unsupported
from imagecensus.model_export.decoding.readers import jpeg, jpeg_xl

_SYNTAX = "1.2.840.10008.1.2.4."
_JPEG = frozenset(f"{_SYNTAX}{number}" for number in (50, 51, 57, 70))
_JPEG_LS = frozenset(f"{_SYNTAX}{number}" for number in (80, 81))
_JPEG_2000 = frozenset(f"{_SYNTAX}{number}" for number in (90, 91))
_HIGH_THROUGHPUT = frozenset(f"{_SYNTAX}{number}" for number in (201, 202, 203))
_JPEG_XL = frozenset(f"{_SYNTAX}{number}" for number in (110, 111, 112))


def read_frame(file: Any, index: int) -> Pixels:
    """[H, W] or RGB [H, W, 3] of the types that the file has, without any table applied.

    `index` counts from 0. Raises AttributeError or NotImplementedError where it is of a kind that
    is not read.
    """
    from pydicom.pixels import pixel_array

    syntax = str(file.file_meta.get("TransferSyntaxUID", ""))
    if syntax.startswith(_SYNTAX) and int(file.get("SamplesPerPixel", 1)) in (1, 3):
        return _signed(_decompressed(file, syntax, index), file)
    samples: Pixels = pixel_array(file, index=index)
    return samples


def _decompressed(file: Any, syntax: str, index: int) -> Pixels:
    import imagecodecs
    from pydicom.encaps import get_frame

    frames = int(file.get("NumberOfFrames", 1) or 1)
    frame = get_frame(file.PixelData, index, number_of_frames=frames)
    kind = str(file.PhotometricInterpretation)
    if _size_of(frame, syntax) not in (None, (int(file.Columns), int(file.Rows))):
        raise ImageError("decode_error", "a frame is not of the size that the file says", "DICOM")
    if syntax in _JPEG:
        # Files of DICOM say of which colours they are; a JPEG alone leaves it to be guessed.
        stored = "RGB" if kind == "RGB" else "YCBCR"
        if int(file.SamplesPerPixel) == 1:
            return np.asarray(imagecodecs.jpeg_decode(frame))
        return np.asarray(imagecodecs.jpeg_decode(frame, colorspace=stored, outcolorspace="RGB"))
    if syntax in _JPEG_LS:
        return _to_rgb(np.asarray(imagecodecs.jpegls_decode(frame)), kind)
    if syntax in _JPEG_2000:
        return _to_rgb(np.asarray(imagecodecs.jpeg2k_decode(frame)), kind)
    if syntax in _HIGH_THROUGHPUT:
        return _to_rgb(np.asarray(imagecodecs.htj2k_decode(frame)), kind)
    if syntax in _JPEG_XL:
        return np.asarray(imagecodecs.jpegxl_decode(frame))
    raise unsupported("DICOM", f"DICOM of transfer syntax {syntax} is not read here")


def _size_of(frame: bytes, syntax: str) -> tuple[int, int] | None:
    """Width and height of a packed frame; None where its header is damaged, as its decoder says."""
    if syntax in _JPEG | _JPEG_LS:
        header = jpeg.read_frame(frame)
        return (header.width, header.height) if header else None
    if syntax in _JPEG_XL:
        return jpeg_xl.read_header(frame)[:2]
    at = frame.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return None
    width, height, left, top = struct.unpack_from(">4I", frame, at + 8)
    return width - left, height - top


def _to_rgb(samples: Pixels, kind: str) -> Pixels:
    """What a codec leaves as it is, where the file says that it is no RGB."""
    if kind != "YBR_FULL" or samples.ndim != 3:
        return samples
    from pydicom.pixels import convert_color_space

    return np.asarray(convert_color_space(samples, kind, "RGB"))


def _signed(samples: Pixels, file: Any) -> Pixels:
    """With the sign that the file says its bits have, where the codec took them as unsigned."""
    if not file.PixelRepresentation or samples.dtype.kind != "u" or samples.ndim != 2:
        return samples
    unused = samples.dtype.itemsize * 8 - int(file.BitsStored)
    whole = (samples << unused).view(samples.dtype.str.replace("u", "i"))
    return np.asarray(whole >> unused)
