"""From the samples of a TIFF page, as its decoder gives them, to an image: what its tags say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagecensus.model_export.decoding import colour, depth
from imagecensus.model_export.decoding.depth import Pixels
from imagecensus.model_export.decoding.errors import unsupported
from imagecensus.model_export.decoding.opened import LoadedImage, from_pixels
from imagecensus.model_export.decoding.readers import tiff_tags
from imagecensus.model_export.decoding.readers.tiff_tags import Page

_CMYK, _CIELAB, _ICCLAB = 5, 8, 9
LAB = (_CIELAB, _ICCLAB)
_COLOURS = {2: 3, _CMYK: 4, _CIELAB: 3, _ICCLAB: 3}
_MULTIPLIED, _ALPHA = 1, (1, 2)  # of ExtraSamples


def from_samples(samples: Pixels, page: Page) -> LoadedImage:
    """The image of samples [H, W] or [H, W, S]. Raises ImageError."""
    photometric = page.get(tiff_tags.PHOTOMETRIC)
    colours = _COLOURS.get(photometric, 1)
    if colours > (samples.shape[2] if samples.ndim == 3 else 1):
        raise unsupported("TIFF", "TIFF with fewer samples than colours is not read here")
    extra = page.get(tiff_tags.EXTRA_SAMPLES) if samples.ndim == 3 else 0
    if samples.ndim == 3:
        samples = samples[..., : colours + (extra in _ALPHA)]
    if samples.dtype.kind == "b":
        samples = samples.astype(np.uint8) * 255
    if photometric in LAB:
        return LoadedImage(image=_from_lab(samples[..., :3], photometric))
    if samples.dtype == np.int8:  # 8 bits are shown as they are, whatever is said of their sign
        samples = samples.view(np.uint8)
    bits = page.tags.get(tiff_tags.BITS, (1,))[0]
    pixels, scaled = depth.to_eight_bits(
        samples, stated_range(samples.dtype, page, bits), photometric == 0, colours
    )
    alpha = pixels[..., colours:] if extra in _ALPHA else None
    icc: bytes | None = bytes(page.tags[34675]) if 34675 in page.tags else None
    if photometric == _CMYK:
        inks = Image.fromarray(np.ascontiguousarray(pixels[..., :4]), "CMYK")
        pixels, icc, colours = np.asarray(colour.flatten(inks, icc)), None, 3
        pixels = pixels if alpha is None else np.dstack([pixels, alpha])
    elif alpha is not None and extra == _MULTIPLIED:
        # Colours that are multiplied by their alpha already: white only has to be added.
        light = pixels[..., :colours].astype(np.uint16) + (255 - alpha)
        pixels = np.minimum(light, 255).astype(np.uint8)
    return LoadedImage(image=from_pixels(pixels, colours), icc=icc, depth_scaled=scaled)


def from_indexes(samples: Pixels, colormap: Pixels, page: Page) -> LoadedImage:
    """The image of indexes [H, W], or [H, W, 2] with alpha, into a table uint16 [3, colours]."""
    table = (colormap.T if colormap.max() > 255 else colormap.T.astype(np.uint16) * 257) >> 8
    indexes = samples[..., 0] if samples.ndim == 3 else samples
    pixels = table.astype(np.uint8)[indexes]
    if samples.ndim == 3 and page.get(tiff_tags.EXTRA_SAMPLES) in _ALPHA:
        pixels = np.dstack([pixels, samples[..., 1].astype(np.uint8)])
    return LoadedImage(image=from_pixels(pixels, colours=3))


def stated_range(dtype: npt.DTypeLike, page: Page, bits: int) -> depth.Range | None:
    """The range that the tags state: odd numbers of bits, or Min- and MaxSampleValue."""
    if np.dtype(dtype).kind not in "iu":
        return None
    high = page.get(tiff_tags.MAX_SAMPLE)
    low = page.get(tiff_tags.MIN_SAMPLE)
    if high > low and bits > 8:
        return float(low), float(high)
    if bits % 8:
        return 0.0, float((1 << bits) - 1)
    return (0.0, 255.0) if dtype == np.uint8 else None


def _from_lab(samples: Pixels, photometric: int) -> Image.Image:
    """CIELab and ICCLab of 8 or 16 bits: L from 0 to 100, a and b around 0."""
    if samples.dtype.itemsize > 2 or samples.dtype.kind not in "iu":
        raise unsupported("TIFF", "TIFF with Lab of more than 16 bits is not read here")
    values = samples.astype(np.int32)
    if samples.dtype.itemsize == 2:
        # The L of ICC is 100 at 0xFF00, that of CIE at 0xFFFF.
        full = 65280 if photometric == _ICCLAB else 65535
        values[..., 0] = np.clip(values[..., 0] * 255 // full, 0, 255)
        values[..., 1:] >>= 8
    if photometric == _ICCLAB:
        values[..., 1:] ^= 0x80  # Pillow takes them signed, as CIE's are
    return colour.flatten(Image.fromarray((values & 255).astype(np.uint8), "LAB"))
