"""From the bytes of one file to the pixels a model sees: the one preprocessing function.

Training, export, evaluation and the batch job all call `decode_image` with the `PreprocessSpec`
stored in the model's contract, so that no two of them can disagree about an image.

What happens to an image, in order:

1. The content decides the format, never the file's name.
2. The header is read and the pixel limit checked before any pixel is decoded.
3. JPEGs far larger than the target are decoded at 1/2, 1/4 or 1/8 size by libjpeg's DCT scaling.
4. Colour: CMYK and YCCK through Pillow's conversion; 16-bit down to 8 by dropping the low byte;
   palettes expanded; alpha composited over white; the first frame of an animation.
5. Resize (and crop, where the spec says so) to the target size, then EXIF orientation. Pillow's
   own resize takes longer than decoding a JPEG, so one with vector instructions does it; its
   pixels do not depend on which of them a processor has.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import logging
import threading
import warnings

import cykooz_resizer
import numpy as np
from PIL import Image, ImageFile

from imagecensus.model_export.image_formats import ImageError, open_image, typed_error

MAX_PIXELS = 178_956_970  # Pillow's own hard limit (2 x 89,478,485)
MAX_SIDE = 65_535  # of a JPEG; what is longer is a strip made to break something

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
_ORIENTATION_TAG = 0x0112
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


@dataclasses.dataclass(frozen=True)
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
    dct_margin: float = 2.0  # JPEG DCT scaling keeps both sides >= margin x target; 0 turns it off
    reducing_gap: float = 2.0  # "pillow" box-reduces to >= gap x target first; 0 turns it off
    scale: float = 1 / 127.5  # in the exported graph: float32(x) * scale + offset
    offset: float = -1.0

    def __post_init__(self):
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
        if self.reducing_gap and self.reducing_gap < 1:
            problems.append(f"reducing_gap {self.reducing_gap} is neither 0 nor at least 1")
        if problems:
            raise ValueError("preprocessing: " + "; ".join(problems))

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(height, width, 3)`."""
        return (self.height, self.width, 3)

    def to_json(self) -> dict:
        fields = dataclasses.asdict(self)
        if self.resizer == "pillow":  # contracts from before there was a choice do not name it
            del fields["resizer"]
        return fields

    @classmethod
    def from_json(cls, fields: dict) -> PreprocessSpec:
        """Raises ValueError for an unknown field: a newer model needs a newer package."""
        unknown = set(fields) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(
                f"preprocessing: unknown fields {sorted(unknown)};"
                " update imagecensus to read this model"
            )
        return cls(**{"resizer": "pillow", **fields})


@dataclasses.dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the file itself says: size in pixels as stored (before EXIF orientation), and format."""

    width: int
    height: int
    format: str


def configure_pillow() -> None:
    """Process-wide Pillow settings that `decode_image` relies on. Safe to call again."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, checked on the header in `_open`
    _quiet_libtiff()
    # Pillow warns about odd metadata; what is wrong with an image is told by its row.
    warnings.filterwarnings("ignore", module=r"PIL\..*")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


@functools.cache
def _quiet_libtiff() -> None:
    """libtiff prints what is wrong with a file to standard error, past Pillow; rows tell it."""
    with contextlib.suppress(OSError, AttributeError), open("/proc/self/maps") as maps:
        for path in {line.split()[-1] for line in maps if "/libtiff" in line}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def decode_image(
    data: bytes,
    spec: PreprocessSpec,
    out: np.ndarray,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
) -> ImageInfo:
    """Decodes one image into `out`.

    Args:
      data: the whole file.
      spec: the model's preprocessing.
      out: `uint8 [spec.height, spec.width, 3]`, overwritten; its content is undefined on error.
      max_pixels, max_side: larger and longer images are refused before decoding.

    Raises:
      ImageError: with the status of the image's row; nothing else, whatever the bytes are.
    """
    if not data:
        raise ImageError("empty_file", "the file has no bytes")
    image_format = None
    try:
        with open_image(data) as image:
            image_format = image.format
            width, height = image.size
            if width < 1 or height < 1:
                raise ImageError("decode_error", f"{width}x{height} pixels", image_format)
            if max(width, height) > max_side:
                raise ImageError(
                    "too_large",
                    f"{width}x{height}: a side is longer than the limit {max_side:,}"
                    " (raise it with --max-side)",
                    image_format,
                )
            if width * height > max_pixels:
                raise ImageError(
                    "too_large",
                    f"{width}x{height} is {width * height:,} pixels, limit {max_pixels:,}"
                    " (raise it with --max-pixels)",
                    image_format,
                )
            if width * height >= _LARGE_PIXELS:
                with _large_image:
                    small = _render(image, spec)
            else:
                small = _render(image, spec)
            out[...] = np.asarray(small)
            return ImageInfo(width, height, image_format)
    except ImageError:
        raise
    except Exception as error:
        raise typed_error(error, image_format) from error


def _render(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """The opened image as an RGB image of exactly the target size."""
    orientation = _orientation(image) if spec.exif_orientation else 1
    target = (spec.width, spec.height)
    if orientation in _SWAPS_SIDES:
        target = (spec.height, spec.width)
    if spec.dct_margin and image.format in ("JPEG", "MPO"):
        need = _draft_size(image.size, target, spec)
        image.draft(None, need)
    image = _to_eight_bit(image)
    box = _crop_box(image.size, target, spec)
    if image.size != target or box is not None:
        image = _resize(image, target, box, spec)
    if spec.color == "grey" and image.mode != "L":
        image = image.convert("L")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return image


def _resize(image: Image.Image, target, box, spec: PreprocessSpec) -> Image.Image:
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


def _draft_size(size, target, spec):
    """The size under which DCT scaling must not go, both sides."""
    width, height = target[0] * spec.dct_margin, target[1] * spec.dct_margin
    box = _crop_box(size, target, spec)
    if box is not None:  # only the crop becomes the target: the whole image must be larger
        width *= size[0] / (box[2] - box[0])
        height *= size[1] / (box[3] - box[1])
    return (int(width), int(height))


def _orientation(image: Image.Image) -> int:
    # A broken EXIF block is no reason to lose a good image.
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Mode L or RGB, with the pixels loaded."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        image.load()
        return image
    if mode == "F":
        pixels = np.nan_to_num(np.asarray(image), nan=0.0, posinf=255.0, neginf=0.0)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if mode.startswith("I"):  # I;16, I;16B, I;16L, I: 16-bit samples
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray((pixels.clip(0, 65535) >> 8).astype(np.uint8))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("L" if mode == "1" else "RGB")


def _crop_box(size, target, spec):
    """The centred box of the target's aspect, or None for the whole image."""
    if spec.crop == "none":
        return None
    width, height = size
    fraction = min(width / target[0], height / target[1]) * spec.crop_fraction
    crop_width, crop_height = target[0] * fraction, target[1] * fraction
    # Rounding may put an edge a hair outside of the image, which Pillow refuses.
    left, top = max((width - crop_width) / 2, 0), max((height - crop_height) / 2, 0)
    return (left, top, min(left + crop_width, width), min(top + crop_height, height))
