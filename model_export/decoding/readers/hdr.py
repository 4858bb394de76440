"""Radiance HDR, by imagecodecs."""

from __future__ import annotations

import numpy as np

from imagecensus.model_export.decoding.depth import Pixels
from imagecensus.model_export.decoding.errors import needs_extra, unsupported
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels


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

    def load(need: Need) -> LoadedImage:
        return LoadedImage(image=from_pixels(to_levels(imagecodecs.rgbe_decode(data)), colours=3))

    return Opened(format="HDR", width=width, height=height, load=load)


def to_levels(light: Pixels) -> Pixels:
    """Light, of which 1 is white, as 8-bit levels of sRGB."""
    light = np.clip(light, 0, 1)
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (curve * 255 + 0.5).astype(np.uint8)
