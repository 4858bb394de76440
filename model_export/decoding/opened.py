"""What a reader gives back: an opened file, then its image.

A reader is a function `open(data: bytes) -> Opened`: it reads the header only. After the limits
were checked, `Opened.load` decodes the pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from imagecensus.model_export.decoding import colour
from imagecensus.model_export.decoding.metadata import Exif

Size = tuple[int, int]  # width, height
Need = Callable[[int], Size]  # an orientation → the size that both sides must keep when reduced


@dataclasses.dataclass(kw_only=True)
class LoadedImage:
    """The pixels of a file, and what is said about them.

    Attributes:
      image: mode L or RGB, 8 bits, as stored (before orientation), possibly reduced in size.
      orientation: EXIF's number of what is still to be done to it, 1 to 8.
      icc: the profile that `image` is still to be converted from, or None.
      exif: of the file, or None.
      pages: pages or frames of the file; None where counting them failed.
      depth_scaled: its samples were scaled by their own range; see `depth`.
      share: of the rows that were there, where a cut file was accepted.
    """

    image: Image.Image
    orientation: int = 1
    icc: bytes | None = None
    exif: Exif | None = None
    pages: int | None = 1
    depth_scaled: bool = False
    share: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A file whose header was read.

    Attributes:
      format: by content, e.g. "JPEG".
      width, height: pixels as stored, before orientation.
      load: decodes the pixels; may raise anything.
    """

    format: str
    width: int
    height: int
    load: Callable[[Need], LoadedImage]


def from_pixels(pixels: np.ndarray, colours: int) -> Image.Image:
    """uint8 [H, W] or [H, W, S] as mode L or RGB; a sample beyond the `colours` is alpha."""
    if pixels.ndim == 3 and pixels.shape[2] > colours + 1:
        pixels = pixels[..., : colours + 1]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return colour.flatten(Image.fromarray(np.ascontiguousarray(pixels)))
