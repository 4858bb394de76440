"""Photoshop's PSD and PSB: the flattened image, of any depth and of most colour modes."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
from PIL import Image

from imagecensus.model_export.decoding import colour, depth
from imagecensus.model_export.decoding.depth import Pixels
from imagecensus.model_export.decoding.errors import ImageError, truncated, unsupported
from imagecensus.model_export.decoding.metadata import exif_of
from imagecensus.model_export.decoding.opened import LoadedImage, Need, Opened, from_pixels
from imagecensus.model_export.decoding.readers import hdr

_BITMAP, _GREY, _INDEXED, _RGB, _CMYK, _MULTICHANNEL, _DUOTONE, _LAB = 0, 1, 2, 3, 4, 7, 8, 9
# mode → (name, channels of colour, depths)
_MODES = {
    _BITMAP: ("Bitmap", 1, (1,)), _GREY: ("Grayscale", 1, (8, 16, 32)),
    _INDEXED: ("Indexed", 1, (8,)), _RGB: ("RGB", 3, (8, 16, 32)), _CMYK: ("CMYK", 4, (8, 16)),
    _DUOTONE: ("Duotone", 1, (8, 16)), _LAB: ("Lab", 3, (8, 16)),
}  # fmt: skip
_RAW, _RUNS, _ZIP, _ZIP_OF_DIFFERENCES = 0, 1, 2, 3
_ICC, _TRANSPARENT_INDEX, _VERSION_INFO, _EXIF = 1039, 1047, 1057, 1058
_LAYERS_ELSEWHERE = (b"Layr", b"Lr16", b"Lr32")  # of more than 8 bits
_MERGED_TRANSPARENCY = (b"Mtrn", b"Mt16", b"Mt32")
_LONG_IN_PSB = {*_LAYERS_ELSEWHERE, *_MERGED_TRANSPARENCY, b"LMsk", b"Alph", b"FMsk", b"lnk2",
                b"FEid", b"FXid", b"PxSD"}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Header:
    """What is said of the flattened image, and where it begins."""

    big: bool  # PSB
    channels: int
    height: int
    width: int
    bits: int
    mode: int
    palette: bytes
    resources: dict[int, bytes]
    layers: int  # below 0: the first channel beyond the colours is the transparency
    pixels_at: int


def open_psd(data: bytes) -> Opened:
    """Raises ImageError for what is not flattened, and for colours that only its inks say."""
    try:
        header = _read_header(data)
    except struct.error:
        raise truncated("PSD", "its header is cut") from None
    name, colours, depths = _MODES.get(header.mode, ("", 0, ()))
    if header.mode == _MULTICHANNEL:
        raise unsupported("PSD", "PSD of the mode Multichannel (spot inks) is not read here")
    if header.bits not in depths:
        kind = f"{header.bits} bits a channel and the mode {name or header.mode}"
        raise unsupported("PSD", f"PSD of {kind} is not read here")
    if header.channels < colours:
        raise ImageError("decode_error", "the PSD has fewer channels than its mode", "PSD")
    version = header.resources.get(_VERSION_INFO, b"")
    if header.layers and version[4:5] == b"\0":
        what = "PSD without its flattened image (saved without Maximize Compatibility)"
        raise unsupported("PSD", f"{what} is not read here")

    def load(need: Need) -> LoadedImage:
        transparent = header.layers < 0 and header.channels > colours and header.mode != _INDEXED
        planes = _read_planes(data, header, colours + transparent)
        image = _to_image(planes, header, colours)
        icc = header.resources.get(_ICC)
        if image.mode in ("CMYK", "LAB"):
            image, icc = colour.flatten(image, icc), None
        exif = exif_of(header.resources.get(_EXIF))
        return LoadedImage(image=image, icc=icc if header.bits != 32 else None, exif=exif)

    return Opened(format="PSD", width=header.width, height=header.height, load=load)


def _read_header(data: bytes) -> _Header:
    """Raises struct.error where it is cut."""
    version, channels, height, width, bits, mode = struct.unpack_from(">H6xHIIHH", data, 4)
    if version not in (1, 2) or not 0 < channels <= 56 or not width * height:
        raise ImageError("decode_error", "the PSD header is damaged", "PSD")
    at, sections = 26, []
    for size_of in (">I", ">I", ">Q" if version == 2 else ">I"):
        (size,) = struct.unpack_from(size_of, data, at)
        at += struct.calcsize(size_of)
        sections.append((at, at + size))
        at += size
    (colours, blocks, layers) = (bytes(data[start:end]) for start, end in sections)
    return _Header(
        big=version == 2, channels=channels, height=height, width=width, bits=bits, mode=mode,
        palette=colours, resources=_read_resources(blocks), layers=_count_layers(layers, version),
        pixels_at=at,
    )  # fmt: skip


def _read_resources(blocks: bytes) -> dict[int, bytes]:
    """By their number. What is behind a damaged one is not read."""
    found, at = {}, 0
    while at + 12 <= len(blocks):
        number, name = struct.unpack_from(">HB", blocks, at + 4)
        at += 6 + (name + 2) // 2 * 2
        if at + 4 > len(blocks):
            break
        (size,) = struct.unpack_from(">I", blocks, at)
        found[number] = blocks[at + 4 : at + 4 + size]
        at += 4 + size + size % 2
    return found


def _count_layers(section: bytes, version: int) -> int:
    """The number of layers; negative where the flattened image has its transparency."""
    length = 8 if version == 2 else 4
    size = int.from_bytes(section[:length], "big")
    if size:
        return int.from_bytes(section[length : length + 2], "big", signed=True)
    at = 2 * length if len(section) < 2 * length else length
    at += 4 + int.from_bytes(section[at : at + 4], "big")  # the global mask
    count = 0
    while section[at : at + 4] in (b"8BIM", b"8B64"):
        key = section[at + 4 : at + 8]
        wide = 8 if version == 2 and key in _LONG_IN_PSB else 4
        size = int.from_bytes(section[at + 8 : at + 8 + wide], "big")
        at += 8 + wide
        if key in _LAYERS_ELSEWHERE:
            count = int.from_bytes(section[at : at + 2], "big", signed=True)
        if key in _MERGED_TRANSPARENCY:
            return -max(abs(count), 1)
        at += (size + 3) // 4 * 4
    return count


def _read_planes(data: bytes, header: _Header, count: int) -> Pixels:
    """The first channels: [count, H, W] of uint8, uint16 or float32; bits as bytes of 8."""
    row = (header.width * header.bits + 7) // 8
    rows, wanted = header.height * header.channels, header.height * count
    (packing,) = struct.unpack_from(">H", data, header.pixels_at)
    at = header.pixels_at + 2
    if packing == _RAW:
        content = bytes(data[at : at + row * wanted])
    elif packing == _RUNS:
        content = _unpack_runs(data[at + rows * (4 if header.big else 2) :], row, wanted)
    elif packing in (_ZIP, _ZIP_OF_DIFFERENCES):
        content = _inflate(data[at:], row * rows)
    else:
        raise ImageError("decode_error", f"the PSD is packed in an unknown way {packing}", "PSD")
    if len(content) < row * wanted:
        raise truncated("PSD", "its pixels are cut")
    kind = {1: "u1", 8: "u1", 16: ">u2", 32: ">f4"}[header.bits]
    content = content[: row * wanted]
    if packing == _ZIP_OF_DIFFERENCES:
        content = _add_up(content, row, header.bits)
    return np.frombuffer(content, kind).reshape(count, header.height, -1)


def _inflate(data: bytes, size: int) -> bytes:
    """Unpacked to its end, where its checksum is."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, size + 1)
    except zlib.error:
        content = bytes(size + 1)
    if len(content) > size:
        raise ImageError("decode_error", "the pixels of the PSD are damaged", "PSD")
    if not inflater.eof:
        raise truncated("PSD", "its pixels are cut")
    return content


def _unpack_runs(data: bytes, row: int, rows: int) -> bytes:
    """PackBits, row by row."""
    image = Image.frombytes("L", (row, rows), bytes(data), "packbits", "L")
    return image.tobytes()


def _add_up(content: bytes, row: int, bits: int) -> bytes:
    """Undoes that rows are stored as differences; of floats, also that bytes are stored apart."""
    if bits == 16:
        rows = np.frombuffer(content, ">u2").reshape(-1, row // 2)
        return np.add.accumulate(rows, 1, dtype=np.uint16).astype(">u2").tobytes()
    rows = np.add.accumulate(np.frombuffer(content, "u1").reshape(-1, row), 1, dtype=np.uint8)
    if bits == 32:
        return rows.reshape(len(rows), 4, -1).swapaxes(1, 2).tobytes()
    return rows.tobytes()


def _to_image(planes: Pixels, header: _Header, colours: int) -> Image.Image:
    """Mode L, RGB, CMYK or LAB."""
    if header.mode == _BITMAP:  # 1 is black
        bits = np.unpackbits(planes[0], axis=1)[:, : header.width]
        return Image.fromarray((1 - bits) * np.uint8(255))
    if header.mode == _INDEXED:
        return _by_palette(planes[0], header)
    samples = np.moveaxis(planes, 0, -1)
    if header.bits == 32:
        levels = hdr.to_levels(np.nan_to_num(samples))
    else:
        white = float((1 << header.bits) - 1)
        levels, _ = depth.to_eight_bits(samples.astype(f"u{header.bits // 8}"), (0.0, white))
    if levels.shape[2] > colours:
        levels = _over_white(levels[..., :colours], levels[..., colours:], header)
    if header.mode == _CMYK:  # 255 is no ink
        return Image.merge("CMYK", [Image.fromarray(255 - levels[..., i]) for i in range(4)])
    if header.mode == _LAB:
        return Image.merge(
            "LAB", [Image.fromarray(np.ascontiguousarray(levels[..., i])) for i in range(3)]
        )
    return from_pixels(levels, colours)


def _over_white(levels: Pixels, alpha: Pixels, header: _Header) -> Pixels:
    """Over white, as Photoshop stores it already: where it is not, a colour is too dark for it."""
    white = np.array([255, 128, 128] if header.mode == _LAB else 255)
    missing = (255 - alpha.astype(np.int16)) * white // 255
    if header.mode == _LAB or (levels + np.int16(2) >= missing).all():
        return levels
    share = alpha / np.float32(255)
    return (levels * share + white * (1 - share) + 0.5).astype(np.uint8)


def _by_palette(indexes: Pixels, header: _Header) -> Image.Image:
    if len(header.palette) < 768:
        raise ImageError("decode_error", "the colour table of the PSD is cut", "PSD")
    table = np.frombuffer(header.palette[:768], np.uint8).reshape(3, 256).T.copy()
    transparent = header.resources.get(_TRANSPARENT_INDEX, b"")
    if len(transparent) >= 2:
        index = int.from_bytes(transparent[:2], "big")
        if index < 256:
            table[index] = 255
    return from_pixels(table[indexes], colours=3)
