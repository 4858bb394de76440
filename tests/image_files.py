"""A file of every format that is read, as tests and the benchmark of formats want them."""

from __future__ import annotations

import functools
import io
import pathlib
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from samples import photo

PILLOW = {
    "JPEG": ("JPEG", {}), "progressive JPEG": ("JPEG", {"progressive": True}),
    "PNG": ("PNG", {}), "GIF": ("GIF", {}), "WebP": ("WEBP", {}),
    "lossless WebP": ("WEBP", {"lossless": True}), "BMP": ("BMP", {}), "AVIF": ("AVIF", {}),
    "JPEG 2000": ("JPEG2000", {}), "TGA": ("TGA", {"compression": "tga_rle"}),
    "PCX": ("PCX", {}), "PPM": ("PPM", {}), "SGI": ("SGI", {}), "DDS": ("DDS", {}),
    "ICO": ("ICO", {}), "MPO": ("MPO", {}),
    "PDF": ("PDF", {"quality": 95, "creationDate": time.gmtime(0), "modDate": time.gmtime(0)}),
    **{f"TIFF {name}": ("TIFF", {"compression": name}) for name in (
        "raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "zstd", "group3", "group4",
    )},
}  # fmt: skip
CODECS = (
    "JPEG XL", "QOI", "12-bit JPEG", "lossless JPEG", "16-bit JPEG 2000", "HDR", "JPEG-LS", "PAM",
    "PFM", "PSD", "DICOM", "DICOM JPEG-LS", "DNG", "DNG preview",
)  # fmt: skip
TIFFS = (
    "TIFF 16-bit LZW", "TIFF float deflate", "TIFF LERC", "TIFF 16-bit packbits",
    *(f"TIFF {name} inside" for name in ("JPEG2000", "WEBP", "JPEGXL", "JPEGXR", "PNG")),
)  # fmt: skip
GREY = ("TIFF group3", "TIFF group4", "TIFF float deflate", "TIFF LERC")
HEIC = pathlib.Path(__file__).parent / "data" / "heic"


@functools.cache
def whole(name: str, size: tuple[int, int] = (128, 96)) -> bytes:
    """A file of each kind."""
    return file_of(name, photo(5, size))


def file_of(name: str, image: Image.Image) -> bytes:
    """A file of the kind, of an RGB image."""
    buffer, size = io.BytesIO(), image.size
    if name == "PDF":
        pytest.importorskip("pypdfium2")
    if name in PILLOW:
        kind, options = PILLOW[name]
        options = (
            {**options, "sizes": [(min(size[0], 256), min(size[1], 192))]}
            if kind == "ICO"
            else options
        )
        image = image.convert("1") if "group" in name else image
        image.save(buffer, kind, **options)
        return buffer.getvalue()
    codecs = pytest.importorskip("imagecodecs")
    pixels = np.asarray(image)
    deep = pixels.astype(np.uint16)
    if name == "HEIC":
        pytest.importorskip("pi_heif")
        return (HEIC / "orientation-1.heic").read_bytes()
    if name.endswith("inside"):
        pytest.importorskip("tifffile").imwrite(
            buffer, pixels, compression=name.split()[1].lower(), photometric="rgb"
        )
        return buffer.getvalue()
    if name in TIFFS:
        samples = deep * 257 if "16" in name else pixels[..., 0].astype(np.float32)
        pytest.importorskip("tifffile").imwrite(
            buffer, samples, compression=name.rpartition(" ")[2].lower(),
            photometric="rgb" if "16" in name else "minisblack",
        )  # fmt: skip
        return buffer.getvalue()
    return {
        "JPEG XL": lambda: codecs.jpegxl_encode(pixels),
        "QOI": lambda: codecs.qoi_encode(pixels),
        "12-bit JPEG": lambda: codecs.jpeg_encode(deep << 4, bitspersample=12),
        "lossless JPEG": lambda: codecs.jpeg_encode(pixels, lossless=True),
        "16-bit JPEG 2000": lambda: codecs.jpeg2k_encode(deep * 257, level=0, codecformat="JP2"),
        "HDR": lambda: codecs.rgbe_encode(pixels.astype(np.float32) / 255),
        "JPEG-LS": lambda: codecs.jpegls_encode(pixels),
        "PAM": lambda: (
            b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nENDHDR\n" % size + pixels.tobytes()
        ),
        "PFM": lambda: b"PF\n%d %d\n-1.0\n" % size + (pixels[::-1] / np.float32(255)).tobytes(),
        "PSD": lambda: psd_of(pixels),
        "DNG": lambda: dng_of(pixels),
        "DNG preview": lambda: dng_of(pixels, preview=file_of("JPEG", image)),
        "DICOM": lambda: dicom_of(pixels, pixels.tobytes(), "1.2.840.10008.1.2.1"),
        "DICOM JPEG-LS": lambda: dicom_of(
            pixels, codecs.jpegls_encode(pixels), "1.2.840.10008.1.2.4.80"
        ),
    }[name]()


def psd_of(
    samples: np.ndarray,
    mode: int = 3,
    *,
    packing: int = 1,
    big: bool = False,
    layers: int = 0,
    palette: bytes = b"",
    resources: dict[int, bytes] | None = None,
) -> bytes:
    """A flattened PSD, packed by run lengths as Photoshop does.

    Args:
      samples: uint8, uint16 or float32 [H, W, S]; uint8 [H, W, 1] of 0 and 1 for mode 0.
      mode: 0 Bitmap, 1 grey, 2 indexed, 3 RGB, 4 CMYK, 7 Multichannel, 8 Duotone, 9 Lab.
      packing: 0 raw, 1 run lengths, 2 zip, 3 zip of differences.
      big: PSB.
      layers: how many it says there are.
    """
    height, width, channels = samples.shape
    bits = 1 if mode == 0 else samples.itemsize * 8
    planes = np.moveaxis(samples, -1, 0)
    planes = np.packbits(planes, axis=2) if mode == 0 else planes
    content = b"".join(_psd_rows(planes.astype(planes.dtype.newbyteorder(">")), packing, big))
    blocks = b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(block)) + block + b"\0" * (len(block) % 2)
        for number, block in (resources or {}).items()
    )
    empty = bytes(18) + b"8BIMnorm" + bytes(4) + struct.pack(">I", 12) + bytes(12)  # a layer
    size = struct.pack(">Q" if big else ">I", 2 + len(empty) * abs(layers))
    section = size + struct.pack(">h", layers) + empty * abs(layers) + bytes(4) if layers else b""
    head = b"8BPS" + struct.pack(">H6xHIIHH", 2 if big else 1, channels, height, width, bits, mode)
    sections = (palette, ">I"), (blocks, ">I"), (section, ">Q" if big else ">I")
    for block, size in sections:
        head += struct.pack(size, len(block)) + block
    return head + struct.pack(">H", packing) + content


def _psd_rows(planes: np.ndarray, packing: int, big: bool) -> list[bytes]:
    codecs = pytest.importorskip("imagecodecs")
    rows = [row.tobytes() for row in planes.reshape(-1, planes.shape[-1])]
    if packing == 1:
        rows = [codecs.packbits_encode(row) for row in rows]
        return [struct.pack(f">{len(rows)}{'I' if big else 'H'}", *map(len, rows)), *rows]
    if packing == 3:
        table = planes.reshape(-1, planes.shape[-1])
        if table.itemsize == 4:  # first bytes of all floats of a row, then second ones
            table = table.view("u1").reshape(len(table), -1, 4).swapaxes(1, 2)
            table = table.reshape(len(table), -1)
        differences = np.diff(table, axis=1, prepend=np.zeros((len(table), 1), table.dtype))
        rows = [differences.astype(table.dtype).tobytes()]
    return [zlib.compress(b"".join(rows))] if packing else rows


def dicom_of(pixels: np.ndarray, content: bytes, syntax: str) -> bytes:
    from pydicom import Dataset, dcmwrite, encaps
    from pydicom.dataset import FileMetaDataset

    file, buffer = Dataset(), io.BytesIO()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "RGB", 0
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.PixelData = content if syntax.endswith(".1.2.1") else encaps.encapsulate([content])
    file["PixelData"].VR = "OB"
    dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def dng_of(
    pixels: np.ndarray,
    *,
    pattern: tuple[int, int, int, int] = (0, 1, 1, 2),
    bits: int = 16,
    preview: bytes | None = None,
    **options,
) -> bytes:
    """A raw file as of a camera whose colours are those of sRGB: linear light, one colour a pixel.

    Args:
      pixels: uint8 [H, W, 3], of sRGB.
      pattern: which colour each pixel of 2 x 2 has.
      bits: of a sample, which is stored in 16.
      preview: a JPEG, of which the first page is made.
      options: of tifffile, for the raw page.
    """
    tifffile = pytest.importorskip("tifffile")
    light = pixels / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    whole = np.rint(light * ((1 << bits) - 1)).astype(np.uint16)
    rows, columns = np.indices(whole.shape[:2])
    which = np.array(pattern)[rows % 2 * 2 + columns % 2]
    mosaic = np.take_along_axis(whole, which[..., None], 2)[..., 0]
    matrix = (32404542, -15371385, -4985314, -9692660, 18760108, 415560, 556434, -2040259, 10572252)
    tags = [
        (50706, "B", 4, (1, 4, 0, 0), True), (50708, "s", 0, "Maker Model", True),
        (33421, "H", 2, (2, 2), True), (33422, "B", 4, pattern, True),
        (50717, "I", 1, (1 << bits) - 1, True), (50778, "H", 1, 21, True),
        (50721, "2i", 9, [part for value in matrix for part in (value, 10_000_000)], True),
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
    ]  # fmt: skip
    tags += options.pop("extratags", [])
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=options.pop("byteorder", "<")) as writer:
        raw = {"photometric": 32803, "planarconfig": 1, "metadata": None, **options}
        if preview is None:
            writer.write(mosaic, extratags=tags, **raw)
        else:
            sides = Image.open(io.BytesIO(preview)).size
            writer.write(
                iter([preview]), shape=(*sides[::-1], 3), dtype="u1", compression=7,
                photometric="ycbcr", subfiletype=1, subifds=1, extratags=tags, metadata=None,
                rowsperstrip=sides[1],
            )  # fmt: skip
            writer.write(mosaic, extratags=tags[2:4] + tags[4:5], **raw)
    return buffer.getvalue()
