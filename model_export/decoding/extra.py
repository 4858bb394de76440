"""Formats read by the libraries of the extra `formats`: HEIC, JPEG XL, camera raw, DICOM, HDR."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from imagecensus.model_export.decoding import depth, jpeg_xl, tiff_tags
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, unsupported
from imagecensus.model_export.decoding.metadata import exif_of
from imagecensus.model_export.decoding.opened import Need, Opened, Picture, from_pixels

_FLIPS = {3: 3, 5: 8, 6: 6}  # LibRaw's number of a turn → EXIF's


def open_heif(data: bytes) -> Opened:
    """HEIC and its kin. The container turns the image itself, so that EXIF's tag is not applied."""
    try:
        import pi_heif
    except ImportError:
        raise needs_extra("HEIF") from None
    try:
        file = pi_heif.open_heif(data)
    except (ValueError, RuntimeError, SyntaxError, OSError, EOFError) as error:
        text = str(error)
        if "nsupported" in text or "not supported" in text.lower():
            raise unsupported("HEIF", f"HEIF of this kind is not read here: {text}") from None
        raise ImageError("decode_error", f"the HEIF header is damaged: {text}", "HEIF") from None
    width, height = file.size

    def load(need: Need) -> Picture:
        mode, icc = file.mode, file.info.get("icc_profile")
        exif = exif_of(file.info.get("exif"))
        rows = np.asarray(file)
        scaled = False
        if ";16" in mode:
            bits = int(file.info.get("bit_depth", 16))
            rows, scaled = depth.to_eight_bits(rows, (0.0, float((1 << bits) - 1)))
        colours = 1 if mode.startswith(("L", "I")) else 3
        return Picture(
            image=from_pixels(rows, colours), icc=icc, exif=exif, pages=len(file),
            depth_scaled=scaled,
        )  # fmt: skip

    return Opened(format="HEIF", width=width, height=height, load=load)


def open_jpeg_xl(data: bytes) -> Opened:
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra("JPEG XL") from None
    try:
        width, height, orientation = jpeg_xl.read_header(data)
    except (ValueError, IndexError):
        raise ImageError("decode_error", "the JPEG XL header is damaged", "JPEG XL") from None

    def load(need: Need) -> Picture:
        samples = imagecodecs.jpegxl_decode(data, keeporientation=True)
        if samples.ndim == 4:
            samples = samples[0]
        colours = 3 if samples.ndim == 3 and samples.shape[2] >= 3 else 1
        stated = (0.0, 255.0) if samples.dtype == np.uint8 else None
        pixels, scaled = depth.to_eight_bits(samples, stated, colours=colours)
        return Picture(
            image=from_pixels(pixels, colours),
            orientation=orientation,
            exif=exif_of(jpeg_xl.read_exif(data)),
            depth_scaled=scaled,
        )

    return Opened(format="JPEG XL", width=width, height=height, load=load)


def open_hdr(data: bytes) -> Opened:
    """Radiance: light, not colour. What is above 1 is white; then the curve of sRGB."""
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra("HDR") from None
    head = bytes(data[: data.find(b"\n\n") + 200]).partition(b"\n\n")[2].split(b"\n")[0].split()
    if len(head) != 4 or head[0] != b"-Y" or head[2] != b"+X":
        raise unsupported("HDR", "HDR with other than rows from the top is not read here")
    width, height = int(head[3]), int(head[1])

    def load(need: Need) -> Picture:
        light = np.clip(imagecodecs.rgbe_decode(data), 0, 1)
        curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
        return Picture(image=from_pixels((curve * 255 + 0.5).astype(np.uint8), colours=3))

    return Opened(format="HDR", width=width, height=height, load=load)


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
        text = f"{name} (camera raw) of this kind is not read here: {_words(error)}"
        raise unsupported(name, text) from None
    sizes = raw.sizes

    def load(need: Need) -> Picture:
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
                pixels = raw.postprocess(use_camera_wb=True, user_flip=0, half_size=half)
                image = from_pixels(pixels, colours=3)
            return Picture(image=image, orientation=orientation, exif=_raw_exif(data))

    return Opened(format=name, width=sizes.width, height=sizes.height, load=load)


def _words(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _raw_exif(data: bytes) -> Any:
    return exif_of(data) if data[:2] in (b"II", b"MM") else None


def _preview(raw: Any, rawpy: Any, sizes: Any) -> Any:
    """The embedded preview, where its sides are half of the raw's or more; else None."""
    from imagecensus.model_export.decoding import colour, jpeg

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
            stated = (0.0, float((1 << int(file.BitsStored)) - 1))
            pixels, scaled = depth.to_eight_bits(samples, stated)
            return Picture(image=from_pixels(pixels, colours=3), pages=frames)
        inverted = file.PhotometricInterpretation == "MONOCHROME1"
        samples = apply_modality_lut(samples, file)
        center = file.get("WindowCenter")
        windowed = apply_voi_lut(samples, file) if center is not None else samples
        low, high = float(windowed.min()), float(windowed.max())
        stated = None
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
