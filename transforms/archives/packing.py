"""What archives are packed in: gzip, bzip2, xz, Zstandard, LZ4 or zlib, read front to back.

A packed archive's kind is `tar.xz`, `tfrecord.gz` and so on: what is in it, then its packing.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa

from imagecensus.transforms.archives.members import Stream

_MEMORY = 512 << 20  # most that a decompressor may take: the file says how much it wants
_BLOCK = 256 << 10
_STARTS = {
    b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"]\x00\x00": "lzma",
    b"\x28\xb5\x2f\xfd": "zst", b"\x04\x22\x4d\x18": "lz4",
}  # fmt: skip
_ARROW = {"zst": "zstd", "lz4": "lz4"}
_SKIPPED = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))  # zstd's own notes


def packing_of(head: bytes) -> str:
    """What a file that starts with `head` may be packed in; "": nothing that is read here."""
    for start, packing in _STARTS.items():
        if head.startswith(start):
            return packing
    if head.startswith(_SKIPPED):
        return "zst"
    # zlib has no start of its own: deflate, a window of at most 32 KB, a checksum modulo 31.
    two = int.from_bytes(head[:2], "big")
    return "zlib" if len(head) > 1 and two >> 8 & 0x8F == 8 and two % 31 == 0 else ""


def split_kind(kind: str) -> tuple[str, str]:
    """What is in an archive and what it is packed in, from its kind."""
    inner, _, packing = kind.partition(".")
    return inner, packing


def open_packed(file: BinaryIO, packing: str) -> Stream:
    """The content of a packed file, at its start.

    The stream raises EOFError where the file ends too early, OSError or zlib.error where it is
    damaged.
    """
    file.seek(0)
    if packing == "gz":
        return cast(Stream, gzip.GzipFile(fileobj=file))
    if packing in _ARROW:
        return _Content(file, lambda: _ArrowReader(file, _ARROW[packing]))
    makers: dict[str, Callable[[], Any]] = {
        "bz2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(memlimit=_MEMORY),
        "lzma": lambda: lzma.LZMADecompressor(memlimit=_MEMORY),
        "zlib": _Zlib,
    }
    return _Content(file, lambda: _StreamReader(file, makers[packing]))


class _Reader(Protocol):
    def read(self, size: int) -> bytes: ...


class _LeftOpen:
    """A file that Arrow reads and does not close when it is done."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read

    def close(self) -> None:
        pass


class _ArrowReader:
    def __init__(self, file: BinaryIO, codec: str) -> None:
        file.seek(0)
        self._stream = pa.CompressedInputStream(pa.PythonFile(_LeftOpen(file), "r"), codec)

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except (pa.ArrowException, OSError) as error:
            if "Truncated" in str(error):
                raise EOFError("the compressed data end too early") from None
            raise OSError(str(error)) from None
        return data


class _Zlib:
    """A decompressor of zlib with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj()

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _StreamReader:
    """One or more compressed streams, one behind the other; what follows them is left."""

    def __init__(self, file: BinaryIO, make: Callable[[], Any]) -> None:
        file.seek(0)
        self._file, self._make, self._inner = file, make, make()
        self._unsure = False  # whether this is a stream at all, and not what lies behind one

    def read(self, size: int) -> bytes:
        while True:
            if self._inner.eof:
                rest = self._inner.unused_data or self._file.read(_BLOCK)
                rest = rest.lstrip(b"\0")  # xz pads its streams
                if not rest:
                    return b""
                self._inner, self._unsure = self._make(), True
            else:
                rest = self._file.read(_BLOCK) if self._inner.needs_input else b""
                if not rest and self._inner.needs_input:
                    raise EOFError("the compressed data end too early")
            try:
                data: bytes = self._inner.decompress(rest, size)
            except (lzma.LZMAError, OSError, zlib.error) as error:
                if self._unsure:
                    return b""
                raise OSError(str(error)) from None
            if data:
                self._unsure = False
                return data


class _Content:
    """Decompressed content that can be sought: forward by reading, back from the start."""

    def __init__(self, file: BinaryIO, begin: Callable[[], _Reader]) -> None:
        self._begin, self._reader = begin, begin()
        self._at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        offset += self._at if whence == io.SEEK_CUR else 0
        if whence == io.SEEK_END:
            raise OSError("the length of packed content is not known")
        if offset < self._at:
            self._reader, self._at = self._begin(), 0
        while self._at < offset and (data := self._reader.read(min(_BLOCK, offset - self._at))):
            self._at += len(data)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            size = 1 << 62
        pieces = []
        while size and (data := self._reader.read(min(_BLOCK, size))):
            pieces.append(data)
            size -= len(data)
            self._at += len(data)
        return b"".join(pieces)
