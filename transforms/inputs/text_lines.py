"""The lines of a text file as people bring it: packed or not, in the encoding that it says.

UTF-8, or what a byte order mark says; packed by gzip, bzip2, xz or Zstandard, whatever the name.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, cast

import pyarrow as pa

from imagecensus.model_export.common.placeholders import placeholder
from imagecensus.transforms.inputs.files import InputError

PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_HEAD = 4096
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of Excel since 2007, and before


@contextlib.contextmanager
def open_unpacked(path: str, name: str) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked.

    Args:
      path: a local file.
      name: as people gave it, for the errors.

    Raises:
      InputError: it is not there, may not be read, or what it is packed in is damaged.
    """
    try:
        with open(path, "rb") as raw:
            head = raw.read(6)
            raw.seek(0)
            yield _unpacked(raw, head)
    except FileNotFoundError:
        raise InputError(f"{name}: no such list") from None
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise InputError(f"{name}: is cut short or damaged: {error}; copy it again") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from None


def _unpacked(raw: IO[bytes], head: bytes) -> IO[bytes]:
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if head.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if head.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(raw)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return cast(IO[bytes], io.BufferedReader(pa.CompressedInputStream(raw, "zstd")))
    return raw


@contextlib.contextmanager
def open_lines(path: str, name: str, newline: str = "") -> Iterator[Iterator[str]]:
    r"""The lines of a text, with their ends: a line that is not UTF-8 has surrogates in it.

    Args:
      path, name: see `open_unpacked`.
      newline: "" ends lines at \n, \r and \r\n alike, and leaves them.

    Raises:
      InputError: see `open_unpacked`; or it is in UTF-16 or UTF-32 that is damaged or not marked.
    """
    with open_unpacked(path, name) as file:
        head = file.read(_HEAD)
        file.seek(0)
        marks = [encoding for mark, encoding in _MARKS if head.startswith(mark)]
        if said := placeholder(head):
            raise InputError(f"{name}: is {said}")
        if head.startswith(_SPREADSHEETS):
            raise InputError(f"{name}: is a spreadsheet or an archive; save it as CSV UTF-8")
        if not marks and _is_unmarked_utf16(head):
            raise InputError(
                f"{name}: holds NUL bytes and no mark of its encoding, perhaps UTF-16; save it as"
                " UTF-8"
            )
        encoding = (*marks, "utf-8")[0]
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        text = io.TextIOWrapper(file, encoding, errors, newline=newline)
        try:
            yield text
        except UnicodeError as error:
            raise InputError(
                f"{name}: is not the {encoding} that its first bytes say: {error}; save it as UTF-8"
            ) from None


def in_utf8(head: bytes) -> bytes:
    """The first bytes of a text in UTF-8, whatever their byte order mark says; without that."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return head.decode(encoding, "replace").encode(errors="replace")
    return head


def _is_unmarked_utf16(head: bytes) -> bool:
    """Every second byte of Western text in UTF-16 is a NUL; names that end in one are longer."""
    return head.count(0) * 4 > len(head)


def is_utf8(line: str) -> bool:
    """Whether a line of `open_lines` was UTF-8."""
    if line.isascii():
        return True
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True
