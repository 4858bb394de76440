"""Samples of more than 8 bits, and floats, as 8 bits: the one rule.

1. A range that the file states is used: bits a sample (10, 12, 14 …), MinSampleValue and
   MaxSampleValue, a maximum, a window.
2. Whole numbers without one are taken to fill the fewest bits, at least 8, that hold the largest:
   12-bit data in 16 bits is seen as 12-bit data.
3. Floats are within 0 to 1 if none is larger, else within 0 to 255, else within 0 to 65,535.
4. Where the values fill less than an eighth of that range (thermal cameras), or some are negative
   or larger than any of those, they are spread from their smallest to their largest; whole
   numbers up to 255 are not.

NaN and infinities are black. Alpha is not looked at, and is scaled like the colours of 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_NARROW = 8
Range = tuple[float, float]
Pixels = np.ndarray[tuple[Any, ...], np.dtype[Any]]


def to_eight_bits(
    samples: Pixels, stated: Range | None = None, inverted: bool = False, colours: int = 0
) -> tuple[Pixels, bool]:
    """Samples as 8 bits.

    Args:
      samples: [H, W] or [H, W, S] of any whole number or float type.
      stated: (black, white) that the file states.
      inverted: white is the smallest value.
      colours: how many of the S are colours, the rest alpha; 0: all.

    Returns:
      (uint8 of the same shape, whether the range was taken from the values themselves and so is
      not the one that the type has).
    """
    colour = samples[..., :colours] if colours and samples.ndim == 3 else samples
    low, high, scaled = _range_of(colour, stated)
    out = _scale(samples, low, high)
    if colour is not samples:
        full = _full_range(samples.dtype) if stated is None else stated
        out[..., colours:] = _scale(samples[..., colours:], *full)
    if inverted:
        view = out[..., :colours] if colours and out.ndim == 3 else out
        np.subtract(255, view, out=view)
    return out, scaled


def _full_range(dtype: np.dtype) -> Range:
    if dtype.kind == "f":
        return 0.0, 1.0
    return 0.0, float(np.iinfo(dtype).max)


def _range_of(samples: Pixels, stated: Range | None) -> tuple[float, float, bool]:
    """(black, white, whether that is from the values)."""
    if stated is not None:
        return (*stated, False)
    if samples.dtype.kind == "f":
        finite = samples[np.isfinite(samples)]
        smallest, largest = _bounds(finite)
        white = next((top for top in (1.0, 255.0, 65535.0) if largest <= top), largest)
        usual = white == 1.0
    else:
        smallest, largest = _bounds(samples)
        white = float((1 << max(int(largest).bit_length(), 8)) - 1)
        usual = white == np.iinfo(samples.dtype).max
    narrow = white != 255 or samples.dtype.kind == "f"  # 8-bit data is as in an 8-bit file
    narrow = narrow and 0 < largest - smallest < white / _NARROW
    if smallest < 0 or largest > white or narrow:
        return smallest, largest, True
    return 0.0, white, not usual


def _bounds(samples: Pixels) -> Range:
    return (float(samples.min()), float(samples.max())) if samples.size else (0.0, 0.0)


def _scale(samples: Pixels, low: float, high: float) -> Pixels:
    bits = int(high + 1).bit_length() - 1
    if samples.dtype.kind in "iu" and low == 0 and high == (1 << bits) - 1 and bits >= 8:
        return np.asarray(np.clip(samples, 0, int(high)) >> (bits - 8), np.uint8)
    if high <= low:
        return np.zeros(samples.shape, np.uint8)
    # Float32 holds 16-bit numbers exactly, and halves the memory.
    kind = np.float32 if samples.dtype.itemsize <= 2 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):  # NaN of all kinds, and what is huge
        scaled = np.nan_to_num(samples.astype(kind), nan=low, posinf=low, neginf=low)
        scaled -= low
        scaled *= 255.0 / (high - low)
        return np.asarray(np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)
