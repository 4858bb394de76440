"""HEIC and its kin, by pi-heif."""

from __future__ import annotations

import numpy as np

from imagecensus.model_export.decoding import depth
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, unsupported
from imagecensus.model_export.decoding.metadata import exif_of
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels


def count_images(data: bytes) -> int:
    """Images of a file."""
    import pi_heif

    return len(pi_heif.open_heif(data))


def open_heif(data: bytes, number: int = 0) -> Opened:
    """HEIC and its kin. The container turns the image itself, so that EXIF's tag is not applied."""
    try:
        import pi_heif
    except ImportError:
        raise needs_extra("HEIF") from None
    try:
        file = pi_heif.open_heif(data)
    except (ValueError, RuntimeError, SyntaxError, OSError, EOFError) as error:
        text = str(error).strip()
        if "nsupported" in text or "not supported" in text.lower():
            raise unsupported("HEIF", f"HEIF of this kind is not read here: {text}") from None
        raise ImageError("decode_error", f"the HEIF header is damaged: {text}", "HEIF") from None
    image = file[number - 1] if number else file
    width, height = image.size

    def load(need: Need) -> LoadedImage:
        mode, icc = image.mode, image.info.get("icc_profile")
        exif = exif_of(image.info.get("exif"))
        rows = np.asarray(image)
        scaled = False
        if ";16" in mode:
            bits = int(image.info.get("bit_depth", 16))  # and they fill the high ones of the 16
            white = float(((1 << bits) - 1) << (16 - bits))
            rows, scaled = depth.to_eight_bits(rows, (0.0, white))
        colours = 1 if mode.startswith(("L", "I")) else 3
        return LoadedImage(
            image=from_pixels(rows, colours), icc=icc, exif=exif, depth_scaled=scaled,
            pages=1 if number else len(file),
        )  # fmt: skip

    return Opened(format="HEIF", width=width, height=height, load=load)
