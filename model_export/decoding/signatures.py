"""What a file is, by its content: formats that are read here, and all that archives hold beside."""

from __future__ import annotations

import struct

_STARTS: dict[bytes, str] = {
    # images
    b"\x89PNG\r\n": "PNG", b"GIF8": "GIF", b"BM": "BMP",
    b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"II+\x00": "TIFF", b"MM\x00+": "TIFF",
    b"MM*\x00": "TIFF", b"II\x00*": "TIFF",
    b"\xff\x4f\xff\x51": "JPEG2000", b"\x00\x00\x00\x0cjP  ": "JPEG2000",
    b"\xff\x0a": "JPEG XL", b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"8BPS": "PSD", b"DDS ": "DDS", b"\x00\x00\x01\x00": "ICO", b"\x00\x00\x02\x00": "CUR",
    b"qoif": "QOI", b"\x01\xda": "SGI", b"#?RADIANCE": "HDR", b"#?RGBE": "HDR",
    b"Pf\n": "PFM", b"PF\n": "PFM", b"Pf ": "PFM", b"PF ": "PFM", b"P7\n": "PAM",
    b"BLP1": "BLP", b"BLP2": "BLP", b"SIMPLE  =": "FITS", b"/* XPM": "XPM", b"icns": "ICNS",
    b"<svg": "SVG", b"gimp xcf": "XCF", b"\x59\xa6\x6a\x95": "SUN", b"v/1\x01": "EXR",
    b"DanM": "MSP", b"LinS": "MSP", b"\xb1\x68\xde\x3a": "DCX", b"#define": "XBM",
    b"II\xbc\x01": "JPEG XR", b"BPG\xfb": "BPG", b"FLIF": "FLIF", b"AT&TFORM": "DjVu",
    b"\xd7\xcd\xc6\x9a": "WMF", b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"farbfeld": "farbfeld",
    b"\xabKTX 11\xbb": "KTX", b"\xabKTX 20\xbb": "KTX", b"\x13\xab\xa1\x5c": "ASTC",
    b"\x8bJNG\r\n": "JNG", b"\x8aMNG\r\n": "MNG",
    b"SDPX": "DPX", b"XPDS": "DPX", b"\x80\x2a\x5f\xd7": "Cineon", b"P7 332": "XV thumbnail",
    b"gd2\x00": "GD2", b"PVR\x03": "PVR", b"VTF\x00": "VTF", b"PG ML": "PGX", b"PG LM": "PGX",
    b"\x00\x00\x00\x0cJXS ": "JPEG XS", b"ZISRAWFILE": "CZI", b"\xda\xce\xbe\x0a": "ND2",
    b"SIMPLE=": "FITS", b"NSCRAW": "camera raw of film scanners",
    # camera raw with a start of its own; what is a TIFF is told by `tiff_tags`
    b"FUJIFILMCCD-RAW": "RAF", b"IIRO": "ORF", b"IIRS": "ORF", b"MMOR": "ORF",
    b"IIU\x00": "RW2", b"II\x1a\x00\x00\x00HEAPCCDR": "CRW", b"FOVb": "X3F", b"\x00MRM": "MRW",
    # video and sound
    b"\x1a\x45\xdf\xa3": "Matroska or WebM video", b"FLV\x01": "FLV video",
    b"\x00\x00\x01\xba": "MPEG video", b"\x00\x00\x01\xb3": "MPEG video",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMV video", b"OggS": "Ogg", b"ID3": "MP3 sound",
    b"fLaC": "FLAC sound", b"FWS": "Flash", b"CWS": "Flash", b"ZWS": "Flash",
    b".snd": "AU sound", b"MThd": "MIDI", b"#!AMR": "AMR sound", b".RMF": "RealMedia video",
    # documents
    b"%PDF": "PDF", b"{\\rtf": "RTF document",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "OLE document (Office, Thumbs.db)",
    b"\x06\x06\xed\xf5\xd8\x1d": "InDesign document",
    # archives
    b"MSCF": "CAB archive", b"\x04\x22\x4d\x18": "LZ4", b"LZIP": "lzip", b"!<arch>": "ar archive",
    b"StuffIt": "StuffIt archive", b"SIT!": "StuffIt archive",
    b"PK\x03\x04": "ZIP", b"PK\x05\x06": "ZIP", b"Rar!\x1a\x07": "RAR archive",
    b"7z\xbc\xaf\x27\x1c": "7-Zip archive", b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x89HDF\r\n": "HDF5", b"PAR1": "Parquet",
    b"ARROW1": "Arrow", b"ORC\n": "ORC", b"Obj\x01": "Avro", b"SQLite format 3\x00": "SQLite",
    b"\x93NUMPY": "NumPy array", b"\x0a\x23\xd7\xce": "RecordIO", b"MATLAB 5.0 MAT": "MATLAB data",
}  # fmt: skip
_BY_LENGTH = sorted(_STARTS.items(), key=lambda item: -len(item[0]))
_IFF = {b"ILBM": "IFF image", b"PBM ": "IFF image", b"AIFF": "AIFF sound", b"AIFC": "AIFF sound"}
_FLI = (b"\x11\xaf", b"\x12\xaf", b"\x44\xaf")
_RIFF = {b"WEBP": "WEBP", b"AVI ": "AVI video", b"WAVE": "WAV sound", b"ACON": "ANI"}
_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
_VIDEO = (b"mp4", b"iso", b"M4", b"3g", b"avc", b"dash", b"MSNV", b"f4v", b"mmp4", b"NDS", b"XAVC")
# Without the preamble: the first element gives the character set, or the length of its group.
_OLD_DICOM = (b"\x08\0\x05\0", b"\0\x08\0\x05", b"\x08\0\0\0\x04\0\0\0", b"\x08\0\0\0UL\x04\0")
_RAW_NAMES = frozenset(("RAF", "ORF", "RW2", "CRW", "X3F", "MRW", "CR3"))
_PIXEL_BITS = {1: (8,), 2: (15, 16, 24, 32), 3: (8, 16), 9: (8,), 10: (15, 16, 24, 32), 11: (8, 16)}


def identify(data: bytes) -> str | None:
    """The name of what the content is, or None for what is no known format. Never raises."""
    head = bytes(data[:64])
    if head.startswith(b"\xff\xd8\xff"):  # most images: not asked for the other 100
        return "JPEG"
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "RIFF")
    if head[:4] == b"FORM" and head[8:12] in _IFF:
        return _IFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _iso_media(data)
    if data[128:134] == b"DICM\x02\x00":  # before it anything may be, a TIFF's header too
        return "DICOM"
    for start, name in _BY_LENGTH:
        if head.startswith(start):
            return _refined(name, data)
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[4:12] in (b"moov\x00\x00\x00", b"mdat") or head[4:8] in (b"moov", b"mdat", b"wide"):
        return "QuickTime video"
    if head[:8] in _OLD_DICOM or head[:4] in _OLD_DICOM:
        return "DICOM"
    if data[257:262] == b"ustar":
        return "tar archive"
    if data[:1] == b"G" and data[188:189] == data[376:377] == b"G":
        return "MPEG video"
    if head[4:6] in _FLI and int.from_bytes(head[:4], "little") == len(data):
        return "FLI"
    if data[32769:32774] == b"CD001":
        return "disk image"
    if b"%PDF-" in bytes(data[:1024]):
        return "PDF"
    if b"<svg" in bytes(data[:1024]).lower():
        return "SVG"
    if _is_pcx(head):
        return "PCX"
    if _is_tga(data):
        return "TGA"
    return None


def known_names() -> set[str]:
    """The names that are told apart, but for raw formats."""
    names = {
        "JPEG",
        *_STARTS.values(),
        *_RIFF.values(),
        "PPM",
        "DICOM",
        "tar archive",
        "SVG",
        "PCX",
        "TGA",
    }
    names |= {*_IFF.values(), "FLI", "disk image", "OpenDocument", "OpenRaster"}
    names |= {"HEIF", "AVIF", "QuickTime video", "MP4 video", "DOCX", "XLSX", "PPTX"}
    return names - _RAW_NAMES


def is_raw(name: str) -> bool:
    """Whether it is a camera's raw format with a start of its own."""
    return name in _RAW_NAMES


def _refined(name: str, data: bytes) -> str | None:
    """The name, once more of the file was looked at; None where a short start was chance."""
    if name == "BMP" and not _is_bmp(data):
        return None
    if name in ("ICO", "CUR"):  # so do TGA files begin, and files of zeros
        count, reserved = struct.unpack_from("<HxxxB", data + b"\xff" * 6, 4)
        if not 0 < count < 1000 or reserved:
            return "TGA" if _is_tga(data) else None
    if name == "XBM" and b"_width" not in data[:1024]:
        return None
    if name == "SGI" and data[2:3] not in (b"\x00", b"\x01"):
        return None
    if name == "ZIP":
        return _zip_kind(bytes(data[:400]))
    return name


def _zip_kind(head: bytes) -> str:
    for part, name in ((b"word/", "DOCX"), (b"xl/", "XLSX"), (b"ppt/", "PPTX")):
        if part in head:
            return name
    if b"mimetypeapplication/vnd.oasis" in head:
        return "OpenDocument"
    return "OpenRaster" if b"image/openraster" in head else "ZIP archive"


def _iso_media(data: bytes) -> str:
    """HEIF, AVIF, raw or video: the brands of a file in the ISO base media format."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    major, others = bytes(data[8:12]), {bytes(data[i : i + 4]) for i in range(16, size, 4)}
    if major == b"crx ":
        return "CR3"
    if major in (b"avif", b"avis"):
        return "AVIF"
    if major in _HEIF:
        return "HEIF"
    if major[:3] in (b"mif", b"msf", b"miaf"[:3], b"1pi") or major in (b"MiHB", b"MiHE", b"miaf"):
        if others & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF"
    if others & (_HEIF | {b"avif", b"avis"}) and not major.startswith(_VIDEO + (b"qt",)):
        return "AVIF" if others & {b"avif", b"avis"} else "HEIF"
    if major == b"qt  ":
        return "QuickTime video"
    if major.startswith(_VIDEO):
        return "MP4 video"
    if major == b"jp2 " or major == b"jpx ":
        return "JPEG2000"
    return f"ISO media ({major.decode('latin-1').strip()!r})"


def _is_bmp(data: bytes) -> bool:
    return len(data) < 18 or int.from_bytes(data[14:18], "little") in (
        12,
        16,
        40,
        52,
        56,
        64,
        108,
        124,
    )


def _is_pcx(head: bytes) -> bool:
    if len(head) < 12 or head[0] != 10 or head[1] > 5 or head[1] == 1 or head[2] > 1:
        return False
    left, top, right, bottom = struct.unpack_from("<4H", head, 4)
    return head[3] in (1, 2, 4, 8) and right >= left and bottom >= top


def _is_tga(data: bytes) -> bool:
    """By its footer, or by a header without any contradiction: the format has no start."""
    if data[-18:] == b"TRUEVISION-XFILE.\x00":
        return True
    if len(data) < 20:
        return False
    text, mapped, kind, _, colours, colour_bits = struct.unpack_from("<BBBHHB", data)
    width, height, bits, flags = struct.unpack_from("<HHBB", data, 12)
    if mapped > 1 or bits not in _PIXEL_BITS.get(kind, ()) or flags & 0xC0 or not width * height:
        return False
    if (kind in (1, 9)) != bool(mapped) or (not mapped and (colours or colour_bits)):
        return False
    if mapped and (colour_bits not in (15, 16, 24, 32) or not 0 < colours <= 256):
        return False
    size = width * height * ((bits + 7) // 8)
    body = len(data) - 18 - text - colours * ((colour_bits + 7) // 8)
    return bool(body >= size if kind < 8 else body >= size // 128)
