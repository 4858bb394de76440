"""What is known by name and not read is `unsupported_format`, and chance is no format."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from samples import photo
from seen import status_of

from imagecensus.model_export.decoding.magic_numbers import PLACES, STARTS
from imagecensus.model_export.decoding.signatures import identify, is_raw
from imagecensus.model_export.decoding.table import FORMATS

_SMALL = photo(1, (64, 48))


def written(kind, mode="RGB"):
    buffer = io.BytesIO()
    _SMALL.convert(mode).save(buffer, kind)
    return buffer.getvalue()


def gd(true_colour=False):
    start = b"\xff\xfe" if true_colour else b"\xff\xff"
    head = start + struct.pack(">HHB", 64, 48, true_colour)
    head += b"\xff\xff\xff\xff" if true_colour else struct.pack(">Hi", 256, -1) + bytes(1024)
    return head + bytes(64 * 48 * (4 if true_colour else 1))


def fli(kind=0xAF12):
    return struct.pack("<IHHHHHH", 200, kind, 3, 64, 48, 8, 3) + bytes(184)


MADE = {
    "FLI": [fli(), fli(0xAF11), fli() + b"more than it says"],
    "GD": [gd(), gd(true_colour=True)],
    "GD2": [b"gd2\0" + struct.pack(">7H", 2, 64, 48, 128, 1, 1, 1) + bytes(40)],
    "SPIDER": [written("SPIDER", "F")],
    "MSP": [written("MSP", "1")], "IM": [written("IM"), written("IM", "L")],
    "EPS": [written("EPS")], "BLP": [written("BLP", "P")], "ICNS": [written("ICNS")],
    "XBM": [written("XBM", "1"), b"/* made by hand */\n" + written("XBM", "1")],
    "CUR": [b"\0\0\2\0" + written("ICO")[4:]],
    "NIfTI": [struct.pack("<I", 348) + bytes(340) + b"n+1\0" + bytes(40),
              struct.pack(">I", 348) + bytes(34) + b"r" + bytes(400),
              struct.pack("<I", 540) + b"n+2\0\r\n\x1a\n" + bytes(600)],
    "FITS": [b"SIMPLE  =                    T".ljust(2880)],
    "HDF5": [b"\x89HDF\r\n\x1a\n" + bytes(90)],
    "NetCDF": [b"CDF\x01" + bytes(60), b"CDF\x05" + bytes(60)],
    "MRC": [struct.pack("<4i", 64, 48, 1, 2) + bytes(192) + b"MAP DD\0\0" + bytes(812)],
    "LIF": [b"\x70\0\0\0\x20\0\0\0*\x10\0\0\0" + bytes(60)],
    "Digital Micrograph": [struct.pack(">3I", 3, 84, 1) + bytes(88)],
    "XWD": [struct.pack(">5I", 107, 7, 2, 24, 64) + bytes(200)],
    "WAL": [bytes(32) + struct.pack("<6I", 64, 48, 100, 3172, 3940, 4132) + bytes(5000)],
    "WBMP": [b"\0\0\x40\x30" + bytes(8 * 48), b"\0\0\x81\x00\x02" + bytes(16 * 2)],
    "EMF": [struct.pack("<2I", 1, 108) + bytes(32) + b" EMF" + bytes(64)],
    "WMF": [b"\x01\0\x09\0\0\x03" + bytes(60), b"\xd7\xcd\xc6\x9a" + bytes(60)],
    "PICT": [bytes(512) + struct.pack(">5H", 9, 0, 0, 48, 64) + b"\0\x11\x02\xff" + bytes(60)],
    "PICtor": [b"\x34\x12" + struct.pack("<4H", 64, 48, 0, 0) + b"\x02\xff" + bytes(90)],
    "Photo CD": [bytes(2048) + b"PCD_IPI" + bytes(90)], "DWG": [b"AC1032" + bytes(60)],
    "DXF": [b"  0\r\nSECTION\r\n  2\r\nHEADER\r\n"],
    "IFF image": [b"FORM\0\0\0\x08" + kind for kind in (b"ILBM", b"PBM ", b"RGB8", b"ANIM")],
    "CorelDRAW": [b"RIFF\0\0\0\0CDR9vrsn", b"RIFF\0\0\0\0CMX1"],
    "JPEG 2000 video": [b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypmjp2" + bytes(40)],
    "MPEG video": [(b"\0\0\0\0G" + bytes(187)) * 3, b"\0\0\1\xb3" + bytes(40)],
    "Krita": [b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/x-krita"],
    "EPUB": [b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/epub+zip"],
    "QuickTime video": [b"\0\0\0\x14ftypqt  " + bytes(40)],
    "MP4 video": [b"\0\0\0\x14ftyp" + kind + bytes(40) for kind in (b"isom", b"mp42", b"3gp4")],
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_made_files_of_formats_that_are_not_read(name):
    for data in MADE[name]:
        assert (identify(data), status_of(data)) == (name, "unsupported_format")


def test_no_file_that_begins_like_a_known_one_is_called_no_image():
    for start, name in STARTS.items():
        data = start + b"_width" + b"\x01" * 600
        if name in ("ICO", "CUR", "BMP", "SGI"):
            continue  # more is asked of these: so short a start may be chance
        assert status_of(data) != "not_an_image", name
        if name not in FORMATS and not is_raw(name):
            assert status_of(data) == "unsupported_format", name
    for at, mark, name in PLACES:
        if name != "DICOM":
            assert status_of(b"\x07" * at + mark + bytes(9)) == "unsupported_format", name


def test_chance_is_no_format():
    rng = np.random.default_rng(5)
    named = [identify(rng.bytes(int(size))) for size in rng.integers(1, 4000, 3000)]
    assert sum(name is not None for name in named) <= 6  # some starts have only two bytes
    for text in (b"Dear all,\n" * 90, b"\0" * 4000, b"\xff" * 4000, b'{"a": 0}', b"<html>", b"0"):
        assert identify(text) is None


def test_cut_anywhere_identify_never_raises():
    for files in MADE.values():
        for data in files:
            for end in range(0, min(len(data), 700), 7):
                identify(data[:end])
                identify(memoryview(data)[:end].tobytes())


def test_pillow_opens_what_was_made():
    for data in (fli(), gd(), *MADE["SPIDER"]):
        if identify(data) != "GD":  # Pillow opens it by a function of its own
            assert Image.open(io.BytesIO(data)).size == (64, 48)


KNOWN = {
    b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x00": "CR3", b"FUJIFILMCCD-RAW ": "RAF",
    b"IIRO\x08\x00\x00\x00": "ORF", b"IIU\x00\x18\x00\x00\x00": "RW2",
    b"\x00\x00\x00\x18ftypqt  \x00\x00\x00\x00": "QuickTime video",
    b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00": "MP4 video", b"%PDF-1.7": "PDF",
    b"\x1a\x45\xdf\xa3\x01": "Matroska or WebM video", b"PK\x03\x04": "ZIP archive",
    b"Rar!\x1a\x07\x00": "RAR archive", b"7z\xbc\xaf\x27\x1c": "7-Zip archive",
    bytes(128) + b"DICM\x02\0" + bytes(20): "DICOM", b"II*\0" + bytes(124) + b"DICM\2\0": "DICOM",
    b"\x08\0\x05\0\x0a\0\0\0ISO_IR 1": "DICOM", b"P7 332\n": "XV thumbnail",
    b"\x20\0\0\0\x12\xaf" + bytes(26): "FLI", b"FORM\0\0\0\x08ILBM": "IFF image",
    (b"G" + bytes(187)) * 3: "MPEG video", b"\0junk before %PDF-1.4": "PDF",
    b"RIFF\x00\x00\x00\x00AVI LIST": "AVI video",
}  # fmt: skip


@pytest.mark.parametrize("data", KNOWN, ids=KNOWN.values())
def test_known_files_are_named_and_never_called_no_image(data):
    assert identify(data) == KNOWN[data]
    assert status_of(data) in ("unsupported_format", "decode_error", "truncated")


@pytest.mark.parametrize("brand", ["heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "mif2"])
def test_every_brand_of_heif_is_known(brand):
    assert identify(b"\x00\x00\x00\x18ftyp" + brand.encode() + bytes(12)) == "HEIF"
