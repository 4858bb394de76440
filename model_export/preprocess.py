"""From the bytes of one file to the pixels a model sees: the one preprocessing function.

Training, export, evaluation and the batch job all call `decode_image` with the `PreprocessSpec`
stored in the model's contract, so that no two of them can disagree about an image.

What happens to an image, in order:

1. The content decides the format and its reader (`decoding.table`), never the file's name.
2. The header is read and the pixel limit checked before any pixel is decoded.
3. What is far larger than the target is decoded smaller where its format allows that: JPEG by
   libjpeg's DCT scaling, JPEG 2000 and pyramids of TIFF by level.
4. Samples of more than 8 bits become 8 by one rule (`decoding.depth`); CMYK, palettes, alpha over
   white; the first frame or page of full size.
5. Resize (and crop, where the spec says so) to the target size, the colour profile to sRGB, then
   EXIF orientation. Pillow's own resize takes longer than decoding a JPEG, so one with vector
   instructions does it; its pixels do not depend on which of them a processor has.

Models from before `decoding: 2` have 4 and 5 as `decoding.legacy` says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import threading
import warnings
from typing import Any

import cykooz_resizer
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from imagecensus.model_export.decoding import (
    colour,
    cut,
    cut_jpeg,
    legacy,
    metadata,
    pages,
    table,
)
from imagecensus.model_export.decoding.errors import ImageError, typed_error
from imagecensus.model_export.decoding.opened import LoadedImage, Opened
from imagecensus.model_export.decoding.readers import tiff_damage
from imagecensus.model_export.limits import MAX_PIXELS, MAX_SIDE

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_RESIZERS = ("simd", "pillow")
_SIMD = {
    name: cykooz_resizer.ResizeOptions(resize_alg=algorithm, use_alpha=False)
    for name, algorithm in {
        "nearest": cykooz_resizer.ResizeAlg.nearest(),
        "bilinear": cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear),
        "bicubic": cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom),
        "lanczos": cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.lanczos3),
    }.items()
}
_thread = threading.local()  # a resizer keeps buffers: one per thread
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = {5, 6, 7, 8}

# An image of this many pixels or more is decoded alone, so that several threads meeting
# several huge scans at once cannot multiply the memory the job needs.
_LARGE_PIXELS = 30_000_000
_large_image = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How bytes become the `uint8 [height, width, 3]` array that a model takes.

    Stored in the contract of every exported model; two models with different specs never share
    an output dataset.
    """

    height: int = 224
    width: int = 224
    color: str = "rgb"  # "rgb", or "grey": luminance (ITU-R 601-2) repeated in the 3 channels
    resize: str = "bilinear"  # nearest, bilinear, bicubic or lanczos; antialiased
    resizer: str = "simd"  # or "pillow": four times slower, equal but for rounding
    crop: str = "none"  # "none": the whole image, squeezed; "center": centre crop of the aspect
    crop_fraction: float = 1.0  # with crop="center": the share of the short side that is kept
    exif_orientation: bool = True
    decoding: int = 2  # 1: depth, colour, pages as before version 0.2; see `decoding.legacy`
    dct_margin: float = 2.0  # JPEG DCT scaling keeps both sides >= margin x target; 0 turns it off
    reducing_gap: float = 2.0  # "pillow" box-reduces to >= gap x target first; 0 turns it off
    accept_truncated: float = 0.0  # of a run, not of a model: least share of a cut JPEG's rows
    # In the exported graph: float32(x) * scale + offset, of all channels or of red, green, blue.
    scale: float | tuple[float, ...] = 1 / 127.5
    offset: float | tuple[float, ...] = -1.0

    def __post_init__(self) -> None:
        problems = []
        if not (0 < self.height <= 4096 and 0 < self.width <= 4096):
            problems.append(f"size {self.height}x{self.width} is not within 1 to 4096")
        if self.color not in ("rgb", "grey"):
            problems.append(f"color {self.color!r} is neither 'rgb' nor 'grey'")
        if self.resize not in _RESAMPLING:
            problems.append(f"resize {self.resize!r} is not one of {', '.join(_RESAMPLING)}")
        if self.resizer not in _RESIZERS:
            problems.append(f"resizer {self.resizer!r} is not one of {', '.join(_RESIZERS)}")
        if self.crop not in ("none", "center"):
            problems.append(f"crop {self.crop!r} is neither 'none' nor 'center'")
        if not 0 < self.crop_fraction <= 1:
            problems.append(f"crop_fraction {self.crop_fraction} is not within (0, 1]")
        if self.dct_margin and self.dct_margin < 1:
            problems.append(f"dct_margin {self.dct_margin} is neither 0 nor at least 1")
        if self.decoding not in (1, 2):
            problems.append(f"decoding {self.decoding!r} is neither 1 nor 2")
        if not 0 <= self.accept_truncated <= 1:
            problems.append(f"accept_truncated {self.accept_truncated} is not within 0 and 1")
        if self.reducing_gap and self.reducing_gap < 1:
            problems.append(f"reducing_gap {self.reducing_gap} is neither 0 nor at least 1")
        for name in ("scale", "offset"):
            numbers = getattr(self, name)
            if isinstance(numbers, list):  # of JSON
                object.__setattr__(self, name, tuple(numbers))
            channels = numbers if isinstance(numbers, (list, tuple)) else (numbers,) * 3
            if len(channels) != 3 or not all(map(math.isfinite, channels)):
                problems.append(f"{name} {numbers!r} is neither a number nor one for each channel")
        if problems:
            raise ValueError("preprocessing: " + "; ".join(problems))

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(height, width, 3)`."""
        return (self.height, self.width, 3)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [..., 3] pixels as the float32 that the network takes, by NumPy."""
        scaled = pixels.astype(np.float32) * np.asarray(self.scale, np.float32)
        return scaled + np.asarray(self.offset, np.float32)

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        for name in ("scale", "offset"):  # as JSON gives it back
            if isinstance(fields[name], tuple):
                fields[name] = list(fields[name])
        if self.resizer == "pillow":  # contracts from before there was a choice do not name it
            del fields["resizer"]
        if self.decoding == 1:  # the same
            del fields["decoding"]
        if not self.accept_truncated:
            del fields["accept_truncated"]
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PreprocessSpec:
        """Raises ValueError for an unknown field: a newer model needs a newer package."""
        unknown = set(fields) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(
                f"preprocessing: unknown fields {sorted(unknown)};"
                " update imagecensus to read this model"
            )
        return cls(**{"resizer": "pillow", "decoding": 1, **fields})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What the file itself says.

    Attributes:
      width, height: pixels as stored, before EXIF orientation.
      format: by content.
      orientation: EXIF's number, 1 to 8, of what was applied.
      pages: pages or frames; None where counting them failed.
      taken_at, camera: as the camera wrote them.
      latitude, longitude: degrees, only where asked for.
      share: of the rows that were there; under 1 only with `accept_truncated`.
      depth_scaled: its samples were scaled by their own range; see `decoding.depth`.
      colour_converted: its colour profile was converted to sRGB.
    """

    width: int
    height: int
    format: str
    orientation: int | None = None
    pages: int | None = None
    taken_at: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    share: float = 1.0
    depth_scaled: bool = False
    colour_converted: bool = False


def configure_pillow() -> None:
    """Process-wide Pillow settings that `decode_image` relies on. Safe to call again."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, checked on the header
    tiff_damage.listen_to_libtiff()
    # Pillow warns about odd metadata; its row says what is wrong with an image.
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom|tifffile)\b.*")
    for library in ("PIL", "tifffile", "pydicom", "imagecodecs", "pypdfium2"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)


def decode_image(
    data: bytes,
    spec: PreprocessSpec,
    out: np.ndarray,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    *,
    gps: bool = False,
) -> ImageInfo:
    """Decodes one image into `out`.

    Args:
      data: the whole file.
      spec: the model's preprocessing.
      out: `uint8 [spec.height, spec.width, 3]`, overwritten; its content is undefined on error.
      max_pixels, max_side: larger and longer images are refused before decoding.
      gps: also reads where the image was taken.

    Raises:
      ImageError: with the status of the image's row; nothing else, whatever the bytes are.
    """
    if not data:
        raise ImageError("empty_file", "the file has no bytes")
    image_format = None
    try:
        data, page = pages.split(data)
        opened = legacy.open_legacy(data) if spec.decoding == 1 and not page else None
        opened = opened or table.open_image(data, page)
        image_format = opened.format
        return _decode(opened, spec, out, (max_pixels, max_side), gps)
    except Exception as error:
        failure = cut.as_truncated(typed_error(error, image_format), data)
        if failure.status == "truncated":
            try:
                less = cut_jpeg.open_cut_jpeg(data, spec.accept_truncated)
                if less is not None:
                    return _decode(less, spec, out, (max_pixels, max_side), gps)
            except Exception as too_little:
                if spec.accept_truncated:
                    failure = cut.as_truncated(typed_error(too_little, image_format), data)
        raise failure from error


def _decode(
    opened: Opened, spec: PreprocessSpec, out: np.ndarray, limits: tuple[int, int], gps: bool
) -> ImageInfo:
    """An opened file into `out`; `limits` are max_pixels and max_side."""
    _check_size(opened, *limits)
    alone = opened.width * opened.height >= _LARGE_PIXELS
    with _large_image if alone else contextlib.nullcontext():
        small, loaded, converted = _render(opened, spec)
    out[...] = np.asarray(small)
    facts = metadata.read_camera(loaded.exif, gps)
    return ImageInfo(
        width=opened.width,
        height=opened.height,
        format=opened.format,
        orientation=loaded.orientation,
        pages=loaded.pages,
        share=1.0 if loaded.share is None else loaded.share,
        depth_scaled=loaded.depth_scaled,
        colour_converted=converted,
        taken_at=facts.taken_at,
        camera=facts.camera,
        latitude=facts.latitude,
        longitude=facts.longitude,
    )


def _check_size(opened: Opened, max_pixels: int, max_side: int) -> None:
    width, height = opened.width, opened.height
    if width < 1 or height < 1:
        raise ImageError("decode_error", f"{width}x{height} pixels", opened.format)
    if max(width, height) > max_side:
        raise ImageError(
            "too_large",
            f"{width}x{height}: a side is longer than the limit {max_side:,}"
            " (raise it with --max-side)",
            opened.format,
        )
    if width * height > max_pixels:
        raise ImageError(
            "too_large",
            f"{width}x{height} is {width * height:,} pixels, limit {max_pixels:,}"
            " (raise it with --max-pixels)",
            opened.format,
        )


def _render(opened: Opened, spec: PreprocessSpec) -> tuple[Image.Image, LoadedImage, bool]:
    """The image as RGB of the target size, the image it is of, if a profile was converted."""
    stored = (opened.width, opened.height)

    def target_of(orientation: int) -> tuple[int, int]:
        swaps = spec.exif_orientation and orientation in _SWAPS_SIDES
        return (spec.height, spec.width) if swaps else (spec.width, spec.height)

    def need(orientation: int) -> tuple[int, int]:
        if not spec.dct_margin:
            return stored
        return _draft_size(stored, target_of(orientation), spec)

    loaded = opened.load(need)
    image, target = loaded.image, target_of(loaded.orientation)
    box = _crop_box(image.size, target, spec)
    if image.size != target or box is not None:
        image = _resize(image, target, box, spec)
    # On the small image: equal but for rounding, and a hundredth of the work.
    converted = loaded.icc is not None and not colour.is_srgb(loaded.icc)
    if converted and loaded.icc is not None:
        image = colour.to_srgb(image, loaded.icc)
    if spec.color == "grey" and image.mode != "L":
        image = image.convert("L")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if spec.exif_orientation and loaded.orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[loaded.orientation])
    return image, loaded, converted


def _resize(
    image: Image.Image,
    target: tuple[int, int],
    box: tuple[float, float, float, float] | None,
    spec: PreprocessSpec,
) -> Image.Image:
    """The box of an L or RGB image, or all of it, at the target size (width, height)."""
    if spec.resizer == "pillow":
        gap = spec.reducing_gap or None
        return image.resize(target, _RESAMPLING[spec.resize], box=box, reducing_gap=gap)
    if not hasattr(_thread, "resizer"):
        _thread.resizer = cykooz_resizer.Resizer()
    options = _SIMD[spec.resize]
    if box is not None:
        left, top, right, bottom = box
        options = options.copy()
        options.crop_box = cykooz_resizer.CropBox(left, top, right - left, bottom - top)
    resized = Image.new(image.mode, target)
    _thread.resizer.resize_pil(image, resized, options)
    return resized


def _draft_size(
    size: tuple[int, int], target: tuple[int, int], spec: PreprocessSpec
) -> tuple[int, int]:
    """The size under which DCT scaling must not go, both sides."""
    width: float = target[0] * spec.dct_margin
    height: float = target[1] * spec.dct_margin
    box = _crop_box(size, target, spec)
    if box is not None:  # only the crop becomes the target: the whole image must be larger
        width *= size[0] / (box[2] - box[0])
        height *= size[1] / (box[3] - box[1])
    return (int(width), int(height))


def _crop_box(
    size: tuple[int, int], target: tuple[int, int], spec: PreprocessSpec
) -> tuple[float, float, float, float] | None:
    """The centred box of the target's aspect, or None for the whole image."""
    if spec.crop == "none":
        return None
    width, height = size
    fraction = min(width / target[0], height / target[1]) * spec.crop_fraction
    crop_width, crop_height = target[0] * fraction, target[1] * fraction
    # Rounding may put an edge a hair outside of the image, which Pillow refuses.
    left, top = max((width - crop_width) / 2, 0), max((height - crop_height) / 2, 0)
    return (left, top, min(left + crop_width, width), min(top + crop_height, height))
