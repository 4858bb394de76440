"""Zip archives: members from the central directory, each read by its own byte range."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.members import ArchiveBroken, BoundedReads, Member, failed

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SLACK = 512  # the local header's extra field may be longer than the directory's
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def list_members(file) -> Iterator[Member]:
    """All members but folders, in the order of the directory.

    `Member.where` is ("zip", header offset, length of name and extra field, compressed size,
    size, method, flags, crc).

    Raises:
      ArchiveBroken: the directory cannot be read; a zip is found by it alone.
    """
    try:
        infos = zipfile.ZipFile(BoundedReads(file)).infolist()
    except (zipfile.BadZipFile, EOFError) as error:
        text = f"no readable central directory ({error}); cut short, or damaged"
        raise ArchiveBroken("truncated", text) from None
    except (OSError, ValueError, NotImplementedError, struct.error, IndexError) as error:
        raise ArchiveBroken("read_error", f"{type(error).__name__}: {error}") from None
    for info in infos:
        if info.filename.endswith("/"):  # is_dir() stumbles over members without a name
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            yield failed(
                info.filename, "not_an_image", "a link; links in archives are not followed"
            )
        elif info.flag_bits & _ENCRYPTED:
            yield failed(info.filename, "permission_denied", "the member is encrypted")
        elif info.compress_type not in _METHODS:
            text = f"compression method {info.compress_type} is not read here"
            yield failed(info.filename, "unsupported_format", text)
        else:
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
            yield Member(info.filename, info.file_size, where)


def read_member(read_at: Callable[[int, int], bytes], where: tuple) -> bytes:
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
        raise ImageError("read_error", f"damaged: {type(error).__name__}: {error}") from None
