"""Damaged files: what a decoder can tell, the row tells; and never pixels of unset memory."""

import functools
import hashlib
import io
import os
import pathlib
import random
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from samples import photo

from imagecensus.model_export.preprocess import (
    ImageError,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)

configure_pillow()
SPEC = PreprocessSpec(height=48, width=64)
PILLOW = {
    "JPEG": ("JPEG", {}), "progressive JPEG": ("JPEG", {"progressive": True}),
    "PNG": ("PNG", {}), "GIF": ("GIF", {}), "WebP": ("WEBP", {}),
    "lossless WebP": ("WEBP", {"lossless": True}), "BMP": ("BMP", {}), "AVIF": ("AVIF", {}),
    "JPEG 2000": ("JPEG2000", {}), "TGA": ("TGA", {"compression": "tga_rle"}),
    "PCX": ("PCX", {}), "PPM": ("PPM", {}), "SGI": ("SGI", {}), "DDS": ("DDS", {}),
    "ICO": ("ICO", {"sizes": [(128, 96)]}), "MPO": ("MPO", {}),
    "PDF": ("PDF", {"quality": 95, "creationDate": time.gmtime(0), "modDate": time.gmtime(0)}),
    **{f"TIFF {name}": ("TIFF", {"compression": name}) for name in (
        "raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "zstd", "group3", "group4",
    )},
}  # fmt: skip
CODECS = (
    "JPEG XL", "QOI", "12-bit JPEG", "lossless JPEG", "16-bit JPEG 2000", "HDR", "JPEG-LS", "PAM",
    "PFM", "PSD", "DICOM", "DICOM JPEG-LS",
)  # fmt: skip
TIFFS = (
    "TIFF 16-bit LZW", "TIFF float deflate", "TIFF LERC", "TIFF 16-bit packbits",
    *(f"TIFF {name} inside" for name in ("JPEG2000", "WEBP", "JPEGXL", "JPEGXR", "PNG")),
)  # fmt: skip
_GREY = ("TIFF group3", "TIFF group4", "TIFF float deflate", "TIFF LERC")
HEIC = pathlib.Path(__file__).parents[2] / "data" / "heic"


@functools.cache
def whole(name: str, size: tuple[int, int] = (128, 96)) -> bytes:
    """A file of each kind."""
    image, buffer = photo(5, size), io.BytesIO()
    if name == "PDF":
        pytest.importorskip("pypdfium2")
    if name in PILLOW:
        kind, options = PILLOW[name]
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
            b"P7\nWIDTH 128\nHEIGHT 96\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + pixels.tobytes()
        ),
        "PFM": lambda: b"PF\n128 96\n-1.0\n" + (pixels[::-1] / np.float32(255)).tobytes(),
        "PSD": lambda: psd_of(pixels),
        "DICOM": lambda: dicom_of(pixels, pixels.tobytes(), "1.2.840.10008.1.2.1"),
        "DICOM JPEG-LS": lambda: dicom_of(
            pixels, codecs.jpegls_encode(pixels), "1.2.840.10008.1.2.4.80"
        ),
    }[name]()


def psd_of(pixels: np.ndarray) -> bytes:
    """A flattened PSD, packed by run lengths as Photoshop does."""
    height, width, _ = pixels.shape
    codecs = pytest.importorskip("imagecodecs")
    rows = [
        codecs.packbits_encode(row.tobytes())
        for row in np.moveaxis(pixels, -1, 0).reshape(-1, width)
    ]
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, height, width, 8, 3) + bytes(12)
    return head + b"\0\1" + struct.pack(f">{len(rows)}H", *map(len, rows)) + b"".join(rows)


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


def seen(data: bytes) -> tuple[str, bytes]:
    """(status, pixels where ok)."""
    out = np.empty(SPEC.shape, np.uint8)
    try:
        decode_image(data, SPEC, out)
        return "ok", out.tobytes()
    except ImageError as error:
        return error.status, b""


EVERY = (*PILLOW, *CODECS, *TIFFS, "HEIC")


@pytest.mark.parametrize("name", EVERY)
def test_a_file_that_ends_too_early_is_never_ok_with_other_pixels(name):
    data = whole(name)
    good = seen(data)
    assert good[0] == "ok"
    rng, statuses = random.Random(7), []
    for _ in range(25):
        found = seen(data[: rng.randrange(len(data) // 8, len(data) - 16)])
        assert found[0] != "ok" or found == good
        statuses.append(found[0])
    # What is cut is said to be cut, not to be damaged.
    assert statuses.count("truncated") >= 20


@pytest.mark.parametrize(
    "name", ["PNG", "JPEG XL", "TIFF tiff_adobe_deflate", "TIFF float deflate", "TIFF LERC",
     "TIFF PNG inside"],
)  # fmt: skip
def test_what_carries_a_checksum_is_never_ok_with_other_pixels(name):
    data = whole(name)
    good, rng = seen(data), random.Random(8)
    first = 200 if name.startswith("TIFF") else 60
    last = len(data) - (400 if name.startswith("TIFF") else 16)  # behind it Pillow writes the tags
    caught = 0
    for _ in range(60):
        bad = bytearray(data)
        at = rng.randrange(first, last)
        bad[at : at + 4] = rng.randbytes(4)
        found = seen(bytes(bad))
        assert found[0] != "ok" or found == good
        caught += found[0] != "ok"
    assert caught > 40


_DIGESTS = """
import sys; sys.path[:0] = {path!r}
from test_damage import digests
print(digests())
"""


def digests() -> str:
    """Of what is seen of damaged files of each kind."""
    rng, found = random.Random(9), hashlib.sha256()
    for name in EVERY:
        data = whole(name)
        for _ in range(8):
            bad = bytearray(data)
            at = rng.randrange(len(data) // 8, len(data))
            if rng.random() < 0.5:
                bad[at : at + 16] = rng.randbytes(16)
            else:
                del bad[at:]
            status, pixels = seen(bytes(bad))
            found.update(f"{name} {status}".encode() + pixels)
    return found.hexdigest()


def test_damaged_files_have_the_same_pixels_whatever_memory_held():
    pytest.importorskip("imagecodecs")
    here = os.path.dirname(__file__)
    path = [here, os.path.dirname(os.path.dirname(here))]
    runs = [
        subprocess.run(
            [sys.executable, "-c", _DIGESTS.format(path=path)],
            capture_output=True, text=True, check=True, timeout=240,
            env={**os.environ, "MALLOC_PERTURB_": str(fill)},
        ).stdout
        for fill in (0, 85, 170)
    ]  # fmt: skip
    assert len(runs[0]) > 60 and len(set(runs)) == 1


def test_a_twelve_bit_jpeg_with_bytes_behind_its_end_is_read():
    data = whole("12-bit JPEG")
    assert seen(data + b"\0" * 100) == seen(data)


def test_the_image_is_the_one_that_was_written():
    good = np.frombuffer(seen(whole("PNG"))[1], np.uint8)
    for name in set(EVERY) - {*_GREY, "HEIC"}:
        there = np.frombuffer(seen(whole(name))[1], np.uint8)
        most = {"HDR": 99, "GIF": 6}.get(name, 4)
        assert np.abs(good.astype(int) - there).mean() < most, name


def test_libraries_print_nothing_about_damaged_files(capfd, caplog):
    for name in set(TIFFS) - {"TIFF JPEGXR inside"}:  # its library writes to standard error
        data = bytearray(whole(name, (32, 24)))  # mostly tags
        at = int.from_bytes(data[4:8], "little")
        for place in range(at, len(data), 7):
            bad = bytearray(data)
            bad[place] ^= 255
            seen(bytes(bad))
    seen(whole("DICOM JPEG-LS")[:-100])
    assert capfd.readouterr() == ("", "") and not caplog.records
