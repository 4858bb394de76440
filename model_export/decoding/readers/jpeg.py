"""JPEG: which kind a file is decides who decodes it and whether it may be scaled while decoding.

libjpeg-turbo 3 ignores a scale for lossless JPEGs and writes full lines into the buffer of a small
image, so that the kind must be known before `draft` is called.
"""

from __future__ import annotations

import dataclasses
import io

from PIL import Image, ImageFile, UnidentifiedImageError

from imagecensus.model_export.decoding import colour, depth
from imagecensus.model_export.decoding.errors import ImageError, needs_extra, truncated, unsupported
from imagecensus.model_export.decoding.metadata import Exif, exif_of, read_orientation
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels

_SCALABLE = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))  # sequential and progressive
_LOSSLESS = frozenset((0xC3, 0xCB))
_JPEG_LS = 0xF7
_FRAMES = frozenset((*range(0xC0, 0xD0), _JPEG_LS)) - {0xC4, 0xC8, 0xCC}
END = b"\xff\xd9"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """The first start of a frame: where it is, its marker (SOF0 is 0xC0), bits a sample, size."""

    at: int
    marker: int
    bits: int
    width: int
    height: int

    @property
    def is_scalable(self) -> bool:
        return self.marker in _SCALABLE and self.bits == 8

    @property
    def is_progressive(self) -> bool:
        return self.marker in (0xC2, 0xCA)


def read_frame(data: bytes) -> Frame | None:
    """The frame that libjpeg will find, or None where there is none."""
    at, end = 2, len(data)
    while True:
        at = data.find(b"\xff", at)
        while 0 <= at < end and data[at] == 0xFF:
            at += 1
        if at < 0 or at + 8 > end:
            return None
        marker = data[at]
        at += 1
        if marker in _FRAMES:
            height = int.from_bytes(data[at + 3 : at + 5], "big")
            width = int.from_bytes(data[at + 5 : at + 7], "big")
            return Frame(at=at, marker=marker, bits=data[at + 2], width=width, height=height)
        if marker in (0xD9, 0xDA):
            return None
        if marker not in (0x00, 0x01) and not 0xD0 <= marker <= 0xD8:
            at += int.from_bytes(data[at : at + 2], "big")


def check_end(data: bytes, frame: Frame) -> None:
    """Raises ImageError where nothing behind the frame's start ends it: decoders do not object.

    A file of which a part was never written has zeros there, which are blocks to a decoder. Within
    blocks there is no such mark; and some writers leave bytes behind it.
    """
    if not data.endswith(END) and data.rfind(END) < frame.at:
        raise truncated("JPEG", "its end is not there")


def open_jpeg(data: bytes) -> Opened:
    frame = read_frame(data)
    if frame is not None and (frame.bits != 8 or frame.marker == _JPEG_LS):
        return _open_deep(data, frame)
    if frame is not None and frame.marker not in _SCALABLE | _LOSSLESS:
        raise unsupported("JPEG", f"JPEG of kind SOF{frame.marker - 0xC0} is not read here")
    image = open_pillow(data)
    scalable = frame is not None and frame.is_scalable

    def load(need: Need) -> LoadedImage:
        exif = exif_of(image.info.get("exif"), image.info.get("xmp"))
        orientation = read_orientation(exif)
        if scalable:
            image.draft(None, need(orientation))
        image.load()
        if frame is not None and not ImageFile.LOAD_TRUNCATED_IMAGES:
            check_end(data, frame)
        icc = image.info.get("icc_profile")
        return LoadedImage(
            image=colour.flatten(image, icc),
            orientation=orientation,
            icc=icc if image.mode != "CMYK" else None,
            exif=exif,
            pages=getattr(image, "n_frames", 1),
        )

    return Opened(format=image.format or "JPEG", width=image.width, height=image.height, load=load)


def open_pillow(data: bytes) -> Image.Image:
    """A JPEG or MPO with its header read by Pillow. Raises ImageError."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
    except UnidentifiedImageError:
        raise ImageError("decode_error", "the JPEG header is damaged", "JPEG") from None
    image.decodermaxblock = len(data)  # at once, not by 64 KB: 2 % of decoding
    return image


def _open_deep(data: bytes, frame: Frame) -> Opened:
    """12 bits a sample, or lossless with 2 to 16, or JPEG-LS."""
    name = f"JPEG of {frame.bits} bits a sample"
    if not 2 <= frame.bits <= 16:
        raise ImageError("decode_error", "the JPEG header is damaged", "JPEG")
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra("JPEG", name) from None

    def load(need: Need) -> LoadedImage:
        check_end(data, frame)
        is_ls = frame.marker == _JPEG_LS
        samples = (imagecodecs.jpegls_decode if is_ls else imagecodecs.jpeg_decode)(data)
        if samples.ndim == 3 and samples.shape[2] == 4:
            raise unsupported("JPEG", f"{name} in CMYK is not read here")
        stated = (0.0, float((1 << frame.bits) - 1)) if frame.bits < 16 else None
        pixels, scaled = depth.to_eight_bits(samples, stated)
        exif = _exif_of_file(data)
        return LoadedImage(
            image=from_pixels(pixels, colours=1 if samples.ndim == 2 else 3),
            orientation=read_orientation(exif),
            exif=exif,
            depth_scaled=scaled,
        )

    return Opened(format="JPEG", width=frame.width, height=frame.height, load=load)


def _exif_of_file(data: bytes) -> Exif | None:
    """EXIF of a JPEG that Pillow does not open: its first APP1."""
    at = data.find(b"Exif\x00\x00", 0, 1 << 16)
    if at < 4:
        return None
    return exif_of(data[at : at - 2 + int.from_bytes(data[at - 2 : at], "big")])
