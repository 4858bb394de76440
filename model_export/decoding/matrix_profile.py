"""ICC profiles of three curves and a matrix, as nearly all of RGB are, by tables: 4 times lcms.

For each value of a channel a table holds what it adds to the light of sRGB's red, green and blue,
as three numbers of 16 bits in one of 64: a pixel is the sum of three of these, and a last table
makes each of its three numbers a level.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Convert = Callable[[Image.Image], Image.Image]
_GRID = 33  # points to a side, on which the tables are compared with lcms
_MOST = 65_000  # the largest sum, but for rounding


def make_converter(profile: ImageCms.ImageCmsProfile, icc: bytes, exact: Convert) -> Convert | None:
    """A function from RGB images in the profile to such in sRGB, within 1 level of `exact`.

    None where the profile is of another kind, damaged, or its colours would be further away.
    """
    core = profile.profile
    if not core.is_matrix_shaper or _tag(icc, b"A2B0"):
        return None
    light = np.stack([_curve(_tag(icc, name)) for name in (b"rTRC", b"gTRC", b"bTRC")])
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).profile
    matrix = np.linalg.inv(_colorants(srgb)) @ _colorants(core)
    convert = _by_tables(light, matrix)
    grid = _grid()
    return convert if _difference(convert(grid), exact(grid)) <= 1 else None


def changes_nothing(convert: Convert) -> bool:
    """Whether a function from RGB to RGB leaves all colours as they are."""
    grid = _grid()
    return _difference(convert(grid), grid) == 0


def _grid() -> Image.Image:
    """Colours of all kinds."""
    sides = np.linspace(0, 255, _GRID).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(sides, sides, sides), -1).reshape(_GRID, -1, 3))


def _difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def _by_tables(light: NDArray[np.float64], matrix: NDArray[np.float64]) -> Convert:
    """`light`: [3, 256] of each channel's levels; `matrix`: from it to that of sRGB."""
    parts = np.einsum("cv,oc->cvo", light, matrix)  # of channel, level, to red, green or blue
    low, high = parts.min(1).sum(0).min(), parts.max(1).sum(0).max()
    one = _MOST / max(high - low, 1.0)
    lanes = np.zeros((3, 256, 4), np.uint16)
    least = parts.min(1, keepdims=True)
    lanes[..., :3] = np.rint((parts - least) * one)
    lanes[0, :, :3] += np.rint((least.sum((0, 1)) - low) * one).astype(np.uint16)
    red, green, blue = lanes.view(np.uint64)[..., 0]
    levels = _srgb_levels(np.arange(1 << 16) / one + low)

    def convert(image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        sums = red.take(pixels[..., 0])
        sums += green.take(pixels[..., 1])
        sums += blue.take(pixels[..., 2])
        made = levels.take(sums.view(np.uint16))
        return Image.frombytes("RGB", image.size, made, "raw", "RGBX")

    return convert


def _srgb_levels(light: NDArray[np.float64]) -> NDArray[np.uint8]:
    light = light.clip(0, 1)
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(curve * 255), np.uint8)


def _colorants(core: Any) -> NDArray[np.float64]:
    """XYZ of red, green and blue, in columns."""
    found = (core.red_colorant, core.green_colorant, core.blue_colorant)
    return np.array([colorant[0] for colorant in found if colorant]).T


def _tag(icc: bytes, name: bytes) -> bytes:
    """The content of a tag; empty where there is none."""
    (count,) = struct.unpack_from(">I", icc, 128)
    for at in range(132, 132 + 12 * min(count, 1000), 12):
        if icc[at : at + 4] == name:
            start, size = struct.unpack_from(">II", icc, at + 4)
            return icc[start : start + size]
    return b""


def _curve(tag: bytes) -> NDArray[np.float64]:
    """The light of each level: [256]. Raises ValueError or struct.error where it is damaged."""
    levels = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return levels
        table = np.frombuffer(tag, ">u2", count, 12)
        if count == 1:
            return np.asarray(levels ** (table[0] / 256))
        return np.interp(levels, np.linspace(0, 1, count), table / 65535)
    kind = struct.unpack_from(">H", tag, 8)[0]
    if tag[:4] != b"para" or kind > 4:
        raise ValueError("a curve of an unknown kind")
    count = (1, 3, 4, 5, 7)[kind]
    gamma, *rest = (value / 65536 for value in struct.unpack_from(f">{count}i", tag, 12))
    a, b, c, d, e, f = [*rest, *[0.0] * (6 - len(rest))] if rest else [1.0, *[0.0] * 5]
    if kind in (1, 2):  # level below -b / a, then only the third number
        c, d, e, f = 0.0, -b / a, c, c
    curved = (a * levels + b).clip(0) ** gamma + e
    return np.asarray(np.where(levels >= d, curved, c * levels + f).clip(0, 1))
