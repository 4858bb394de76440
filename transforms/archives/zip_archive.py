"""Zip archives: members from the central directory, each read by its own byte range."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.members import (
    SPLIT,
    ArchiveBroken,
    BoundedReads,
    Member,
    Stream,
    failed,
    left_out,
    link,
    reason_of,
)
from imagecensus.transforms.archives.packing import open_packed

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SLACK = 512  # the local header's extra field may be longer than the directory's
_LONGEST_LINK = 4096
_ENCRYPTED, _UTF8 = 0x1, 0x800
_UNICODE_PATH = 0x7075  # an extra field of Info-ZIP
_FOLDER = 0x10  # an attribute of DOS
_BACKSLASHED = (0, 10, 11, 14)  # systems whose paths have backslashes: FAT, NTFS, MVS, VFAT
_END = struct.Struct("<4s4H2LH")  # of the directory
_END64, _LOCATOR = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_END_MARK, _END64_MARK, _LOCATOR_MARK = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_ENTRY_MARK = b"PK\1\2"
_TAIL = 1 << 17  # in which the end is looked for: a comment has up to 64 KB
_UNREADABLE = "no readable central directory ({}); cut short, or damaged"
_DEFLATE64, _ZSTD, _XZ = 9, 93, 95
_METHODS = (
    zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, _DEFLATE64,
    _ZSTD, _XZ,
)  # fmt: skip
_PIECE = 4096  # bytes of Deflate64 opened at once: they give at most 4 MB
_OTHER_METHODS = {
    1: "shrunk", 6: "imploded", 20: "Zstandard, an early draft", 94: "MP3", 96: "JPEG, by WinZip",
    97: "WavPack", 98: "PPMd", 99: "encrypted with AES",
}  # fmt: skip


def list_members(file: Stream, encoding: str = "") -> Iterator[Member]:
    """All members but folders, in the order of the directory.

    `Member.where` is ("zip", header offset, length of name and extra field, compressed size,
    size, method, flags, crc).

    Args:
      file: the archive.
      encoding: of names that do not say that they are UTF-8; empty: UTF-8 where all of them are,
        else the standard's code page 437.

    Raises:
      ArchiveBroken: the directory cannot be read; a zip is found by it alone.
    """
    directory, moved = _directory(file)
    end = _END.pack(_END_MARK, 0, 0, 0, 0, len(directory), 0, 0)
    try:
        infos = zipfile.ZipFile(io.BytesIO(directory + end)).infolist()
    except (zipfile.BadZipFile, EOFError) as error:
        raise ArchiveBroken("truncated", _UNREADABLE.format(error)) from None
    except (OSError, ValueError, NotImplementedError, struct.error, IndexError) as error:
        raise ArchiveBroken("read_error", reason_of(error)) from None
    for info in infos:
        info.header_offset += moved
    for info, name in zip(infos, _names(infos, encoding), strict=True):
        if not name.endswith("/") and not (info.external_attr & _FOLDER and not info.file_size):
            yield _link(file, info, name) if _is_link(info) else _member(info, name)


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _link(file: Stream, info: zipfile.ZipInfo, name: str) -> Member:
    """A link, whose target is its content."""
    member = _member(info, name)
    if member.where[0] != "zip" or info.file_size > _LONGEST_LINK:
        return left_out(name, "links")

    def read_at(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    try:
        return link(name, read_member(read_at, member.where[1:]).decode("utf-8", "surrogateescape"))
    except ImageError:
        return left_out(name, "links")


def _member(info: zipfile.ZipInfo, name: str) -> Member:
    if info.flag_bits & _ENCRYPTED:
        return failed(name, "permission_denied", "the member is encrypted", info.file_size)
    if info.compress_type not in _METHODS:
        what = _OTHER_METHODS.get(info.compress_type, "unknown")
        text = f"compression method {info.compress_type} ({what}) is not read here; pack it again"
        return failed(name, "unsupported_format", text, info.file_size)
    where = (
        "zip",
        info.header_offset,
        len(info.orig_filename.encode()) + len(info.extra),
        info.compress_size,
        info.file_size,
        info.compress_type,
        info.flag_bits,
        info.CRC,
    )
    return Member(name, info.file_size, where)


def has_directory(file: Stream) -> bool:
    """Whether a file of any beginning ends as a zip, as programs that unpack themselves do."""
    try:
        return bool(_directory(file)[0])
    except ArchiveBroken:
        return False


def _directory(file: Stream) -> tuple[bytes, int]:
    """The central directory, and by how much more than it says its members lie behind.

    What looks like the end of a directory may stand in the archive's comment, and something else
    before the archive or behind it. The last end that a directory belongs to is taken.
    """
    size = file.seek(0, io.SEEK_END)
    begin = max(0, size - _TAIL)
    file.seek(begin)
    tail = file.read(_TAIL)
    ends = [found.start() for found in re.finditer(re.escape(_END_MARK), tail)]
    ends = [at for at in reversed(ends) if at + _END.size <= len(tail)]
    for at in ends:
        found = _directory_before(file, begin + at, _END.unpack_from(tail, at)[5:7])
        if found:
            if _is_split(tail, at):
                raise ArchiveBroken("unsupported_format", SPLIT)
            return found
    if any(_is_split(tail, at) for at in ends[:1]):
        raise ArchiveBroken("unsupported_format", SPLIT)
    if ends and not any(any(tail[at + 4 : at + _END.size - 2]) for at in ends):
        return b"", 0  # an empty archive
    raise ArchiveBroken("truncated", _UNREADABLE.format("its end is missing"))


def _directory_before(file: Stream, end: int, said: tuple[int, int]) -> tuple[bytes, int] | None:
    """See `_directory`; None: there is none before this end.

    Args:
      end: where its record is in the file.
      said: how long the directory is, and where.
    """
    end, said = _end64(file, end) or (end, said)
    length, offset = said
    if not 0 < length <= end:
        return None
    for start in (end - length, offset):  # the second where something lies between them
        if start + length <= end:
            file.seek(start)
            if file.read(4) == _ENTRY_MARK:
                file.seek(start)
                return BoundedReads(file).read(length), start - offset
    return None


def _end64(file: Stream, end: int) -> tuple[int, tuple[int, int]] | None:
    """The arguments of `_directory_before` as the record of Zip64 has them; None: there is none."""
    if end < _LOCATOR.size:
        return None
    file.seek(end - _LOCATOR.size)
    mark, _, said, parts = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if mark != _LOCATOR_MARK:
        return None
    if parts > 1:
        raise ArchiveBroken("unsupported_format", SPLIT)
    for at in (said, end - _LOCATOR.size - _END64.size):  # the second where something lies before
        if 0 <= at <= end - _LOCATOR.size - _END64.size:
            file.seek(at)
            record = file.read(_END64.size)
            if record.startswith(_END64_MARK):
                return at, _END64.unpack(record)[8:10]
    return None


def _is_split(tail: bytes, at: int) -> bool:
    """Whether the end of a directory says that it is in another part than its archive's begin."""
    disk, first = _END.unpack_from(tail, at)[1:3]
    return bool(disk != first or 0 < disk < 0xFFFF)


def _names(infos: list[zipfile.ZipInfo], encoding: str) -> list[str]:
    """The names of members as people see them, with slashes."""
    raw = [
        None if info.flag_bits & _UTF8 else info.orig_filename.encode("cp437", "replace")
        for info in infos
    ]
    encoding = encoding or ("utf-8" if all(map(_is_utf8, filter(None, raw))) else "cp437")
    names = [
        info.orig_filename
        if name is None
        else _unicode_path(info, name) or name.decode(encoding, "surrogateescape")
        for info, name in zip(infos, raw, strict=True)
    ]
    names = [name.partition("\0")[0] for name in names]
    slashes = any("/" in name for name in names)  # else backslashes are what parts their folders
    return [
        name.replace("\\", "/") if not slashes or info.create_system in _BACKSLASHED else name
        for info, name in zip(infos, names, strict=True)
    ]


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unicode_path(info: zipfile.ZipInfo, name: bytes) -> str:
    """The name in UTF-8 that an extra field gives, where it is of this name; else ""."""
    extra = info.extra
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        mine = field[:5] == b"\1" + zlib.crc32(name).to_bytes(4, "little")
        if kind == _UNICODE_PATH and mine and _is_utf8(field[5:]):
            return field[5:].decode()
    return ""


def read_member(read_at: Callable[[int, int], bytes], where: tuple[Any, ...]) -> bytes:
    """The bytes of one member.

    Never more than the declared size is decompressed, which the caller has found acceptable.

    Args:
      read_at: (offset, length) → bytes of the archive.
      where: of the member, without the kind.

    Raises:
      ImageError: `truncated` or `read_error`.
    """
    offset, names, packed, size, method, flags, crc = where
    header = _LOCAL_HEADER.size
    data = read_at(offset, header + names + packed + _SLACK)
    if len(data) < header or data[:4] != b"PK\x03\x04":
        raise ImageError("read_error", "the member's header is damaged")
    start = header + sum(_LOCAL_HEADER.unpack_from(data)[1:])
    if len(data) < start + packed:
        data = read_at(offset, start + packed)
    if len(data) < start + packed:
        raise ImageError("truncated", "the archive ends before the member does")
    if method in (_DEFLATE64, _ZSTD, _XZ):
        return _unpacked(data[start : start + packed], size, method, crc)
    info = zipfile.ZipInfo()
    info.compress_size, info.file_size, info.compress_type = packed, size, method
    info.flag_bits, info.CRC = flags, crc
    member = zipfile.ZipExtFile(io.BytesIO(data[start : start + packed]), "r", info)
    try:
        content = member.read(size)
        if len(content) < size:
            raise ImageError("truncated", f"{len(content):,} bytes of {size:,} declared")
        member.read(1)  # at the end the checksum is compared
        return content
    except zipfile.BadZipFile:
        raise ImageError("read_error", "the member's checksum is wrong") from None
    except (EOFError, zlib.error, OSError, ValueError) as error:
        raise ImageError("read_error", reason_of(error)) from None


def _unpacked(data: bytes, size: int, method: int, crc: int) -> bytes:
    try:
        if method == _DEFLATE64:
            content = _inflated64(data, size)
        else:
            content = open_packed(io.BytesIO(data), "zst" if method == _ZSTD else "xz").read(size)
    except (EOFError, OSError) as error:
        raise ImageError("read_error", f"damaged: {error}") from None
    if len(content) < size:
        raise ImageError("truncated", f"{len(content):,} bytes of {size:,} declared")
    if zlib.crc32(content) != crc:
        raise ImageError("read_error", "the member's checksum is wrong")
    return content


def _inflated64(data: bytes, size: int) -> bytes:
    """Deflate64, as Windows Explorer makes it of large files. Raises OSError, ImageError."""
    try:
        import inflate64  # an extra
    except ImportError:
        raise ImageError(
            "unsupported_format", "Deflate64 needs pip install 'imagecensus[formats]'"
        ) from None
    inflater, content = inflate64.Inflater(), bytearray()
    for start in range(0, len(data), _PIECE):
        if len(content) > size or inflater.eof:
            break
        try:
            content += inflater.inflate(data[start : start + _PIECE])
        except ValueError as error:
            raise OSError(str(error)) from None
    return bytes(content[:size])
