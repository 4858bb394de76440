"""What a file is, by its content: formats that are read here, and all that archives hold beside."""

from __future__ import annotations

import struct
from collections.abc import Callable

from imagecensus.model_export.decoding.magic_numbers import IFF, PLACES, RIFF, STARTS, ZIPPED

# By the first two bytes, as most files are asked; the longest start first.
_BY_TWO: dict[bytes, list[tuple[bytes, str]]] = {}
for _start in sorted(STARTS, key=len, reverse=True):
    _BY_TWO.setdefault(_start[:2], []).append((_start, STARTS[_start]))
_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
_VIDEO = (b"mp4", b"iso", b"M4", b"3g", b"avc", b"dash", b"MSNV", b"f4v", b"mmp4", b"NDS", b"XAVC")
# Without the preamble: the first element gives the character set, or the length of its group.
_OLD_DICOM = (b"\x08\0\x05\0", b"\0\x08\0\x05", b"\x08\0\0\0\x04\0\0\0", b"\x08\0\0\0UL\x04\0")
_RAW_NAMES = frozenset(("RAF", "ORF", "RW2", "CRW", "X3F", "MRW", "CR3"))
_PIXEL_BITS = {1: (8,), 2: (15, 16, 24, 32), 3: (8, 16), 9: (8,), 10: (15, 16, 24, 32), 11: (8, 16)}


def identify(data: bytes) -> str | None:
    """The name of what the content is, or None for what is no known format. Never raises."""
    head = bytes(data[:64])
    if head.startswith(b"\xff\xd8\xff"):  # most images: not asked for all the others
        return "JPEG"
    if head[:4] in (b"RIFF", b"RIFX"):
        drawing = head[8:11] in (b"CDR", b"CMX")
        return "CorelDRAW" if drawing else RIFF.get(head[8:12], "RIFF")
    if head[:4] in (b"FORM", b"FOR4", b"FOR8") and head[8:12].strip(b" ").isalnum():
        return IFF.get(head[8:12], "IFF image")
    if head[4:8] == b"ftyp":
        return _iso_media(data)
    if data[128:134] == b"DICM\x02\x00":  # before it anything may be, a TIFF's header too
        return "DICOM"
    for start, name in _BY_TWO.get(head[:2], ()):
        if head.startswith(start):
            return _refined(name, data)
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[4:12] in (b"moov\x00\x00\x00", b"mdat") or head[4:8] in (b"moov", b"mdat", b"wide"):
        return "QuickTime video"
    if head[:8] in _OLD_DICOM or head[:4] in _OLD_DICOM:
        return "DICOM"
    return _by_place(data) or _by_structure(data)


def _by_place(data: bytes) -> str | None:
    """The name of what has its mark elsewhere than at its start."""
    for at, mark, name in PLACES:
        if data[at : at + len(mark)] == mark:
            return name
    if data[:1] == b"G" and data[188:189] == data[376:377] == b"G":
        return "MPEG video"
    if data[4:5] == data[196:197] == data[388:389] == b"G":  # with a time before each packet
        return "MPEG video"
    start = bytes(data[:1024])
    if b"%PDF-" in start:
        return "PDF"
    if b"<svg" in start.lower():
        return "SVG"
    if b"#define" in start and b"_width" in start and b"_bits" in data[:4096]:
        return "XBM"
    if start.lstrip().startswith(b"0") and b"SECTION" in start[:64]:
        return "DXF"
    return None


def _by_structure(data: bytes) -> str | None:
    """The name of what has no mark: its header is without any contradiction."""
    for is_one, name in _STRUCTURES:
        if is_one(data):
            return name
    return None


def known_names() -> set[str]:
    """The names of formats, but for raw formats."""
    names = {"JPEG", "PPM", "SVG", "CorelDRAW", "IFF image", *STARTS.values(), *RIFF.values()}
    names |= {*IFF.values(), *(name for _, _, name in PLACES), *(name for _, name in ZIPPED)}
    names |= {*(name for _, name in _STRUCTURES), "JPEG 2000 video", "JPM"}
    names |= {"HEIF", "AVIF", "QuickTime video", "MP4 video", "ZIP archive"}
    return names - _RAW_NAMES - {"ZIP"}


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
            return _by_structure(data)
    if name == "XBM" and b"_width" not in data[:1024]:
        return None
    if name == "SGI" and data[2:3] not in (b"\x00", b"\x01"):
        return None
    if name == "JPEG2000" and data[20:24] in (b"mjp2", b"mj2s"):
        return "JPEG 2000 video"
    if name == "JPEG2000" and data[20:24] == b"jpm ":
        return "JPM"
    if name == "ZIP":
        return _zip_kind(bytes(data[:400]))
    return name


def _zip_kind(head: bytes) -> str:
    return next((name for part, name in ZIPPED if part in head), "ZIP archive")


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


def _is_pcx(data: bytes) -> bool:
    head = data[:12]
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


def _is_fli(data: bytes) -> bool:
    if len(data) < 16 or data[4:6] not in (b"\x11\xaf", b"\x12\xaf", b"\x44\xaf"):
        return False
    if int.from_bytes(data[:4], "little") == len(data):
        return True
    frames, width, height, depth, flags = struct.unpack_from("<5H", data, 6)
    return bool(frames and width and height) and depth in (0, 8, 16, 24) and flags in (0, 1, 3)


def _is_gd(data: bytes) -> bool:
    """GD's own: sizes, the number of colours, which of them is transparent, their table."""
    if len(data) < 11 or data[:2] not in (b"\xff\xff", b"\xff\xfe"):
        return False
    width, height, true_colour = struct.unpack_from(">HHB", data, 2)
    table = 4 if true_colour else 2 + 4 + 1024
    pixels = width * height * (4 if true_colour else 1)
    return bool(true_colour == (data[1] == 0xFE) and 0 < pixels <= len(data) - 7 - table)


def _is_spider(data: bytes) -> bool:
    """SPIDER: numbers of a header of floats, whole ones, that agree with each other."""
    if len(data) < 108:
        return False
    for order in "<>":
        header = struct.unpack_from(f"{order}27f", data)
        # Slices, rows, kind, columns; then records and bytes of the header, bytes of a record.
        stated = [header[i] for i in (0, 1, 4, 11, 12, 21, 22)]
        if not all(0 <= abs(value) < 1e7 and value == int(value) for value in stated):
            continue
        columns, records, length, record = int(stated[3]), *map(int, (header[12], *header[21:23]))
        if columns > 0 and header[1] > 0 and record == columns * 4 and length == records * record:
            return int(header[4]) in (1, 3, -11, -12, -21, -22)
    return False


def _is_nifti(data: bytes) -> bool:
    """The header of Analyze 7.5 or of an unpaired NIfTI: its own size, then `r` for regular."""
    return data[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and data[38:39] == b"r"


def _is_dm(data: bytes) -> bool:
    """Gatan's Digital Micrograph: its version, its length and the order of its bytes."""
    if data[:4] == b"\0\0\0\x03":
        length, order = int.from_bytes(data[4:8], "big"), data[8:12]
        return length == len(data) - 16 and order in (b"\0\0\0\0", b"\0\0\0\x01")
    length, order = int.from_bytes(data[4:12], "big"), data[12:16]
    is_four = data[:4] == b"\0\0\0\x04" and length in (len(data) - 24, len(data) - 16)
    return is_four and order in (b"\0\0\0\0", b"\0\0\0\x01")


def _is_xwd(data: bytes) -> bool:
    if len(data) < 100:
        return False
    for order in "<>":
        size, version, kind, depth = struct.unpack_from(f"{order}4I", data)
        if version == 7 and kind <= 2 and 0 < depth <= 32 and 100 <= size < 1024:
            return True
    return False


def _is_wal(data: bytes) -> bool:
    """A texture of Quake 2: the first of its four versions lies right behind the header."""
    width, height, first = struct.unpack_from("<3I", data, 32) if len(data) > 100 else (0, 0, 0)
    return bool(first == 100 and 0 < width * height <= len(data) - 100)


def _is_wbmp(data: bytes) -> bool:
    """Two zeros, the sizes in groups of 7 bits, and exactly the pixels of such a size."""
    if data[:2] != b"\0\0":
        return False
    at, sizes = 2, []
    for _ in range(2):
        value = 0
        for _ in range(3):
            byte = data[at] if at < len(data) else 0
            value, at = value << 7 | byte & 0x7F, at + 1
            if byte < 0x80:
                break
        sizes.append(value)
    return min(sizes) > 0 and len(data) - at == (sizes[0] + 7) // 8 * sizes[1]


def _is_lif(data: bytes) -> bool:
    return data[:4] == b"\x70\0\0\0" and data[8:9] == b"*"


def _is_pictor(data: bytes) -> bool:
    return data[:2] == b"\x34\x12" and data[11:12] == b"\xff"


# The less a structure says, the later it comes.
_STRUCTURES: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (_is_fli, "FLI"), (_is_lif, "LIF"), (_is_dm, "Digital Micrograph"), (_is_xwd, "XWD"),
    (_is_nifti, "NIfTI"), (_is_spider, "SPIDER"), (_is_wal, "WAL"), (_is_gd, "GD"),
    (_is_pictor, "PICtor"), (_is_pcx, "PCX"), (_is_tga, "TGA"), (_is_wbmp, "WBMP"),
)  # fmt: skip
