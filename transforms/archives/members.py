"""What all kinds of packed archives have in common: members, and how a listing breaks off."""

from __future__ import annotations

import posixpath
import re
from typing import Any, NamedTuple, Protocol

from imagecensus.model_export.common.errors import first_line

PAGES = "pages"  # the kind of files with several pages or frames
MEMBER_PAGE = "page"  # the kind of a page of a member of another kind
MAX_HEADER = 256 << 20  # the longest header or directory that is read into memory
# Packed archives that are read, and others that are named as what they are.
_LAST_WORD = frozenset(
    (
        "tar", "tgz", "tbz", "tbz2", "txz", "tlz", "tzst", "gz", "bz2", "xz", "lzma", "zst", "lz4",
        "zlib", "z", "lz", "lzo", "zip", "cbz", "parquet", "tfrecord", "7z", "rar", "cbr", "cb7",
        "cab", "lzh", "lha", "arj", "ace", "sit", "sitx", "cpio", "iso", "dmg",
        "tfrec", "arrow", "feather", "orc", "avro",
    )
)  # fmt: skip
_ARCHIVE_NAME = re.compile(
    r"\.(tar|tar\.(gz|bz2|xz|lzma|zst|lz4|zlib|z|lz|lzo)|tgz|tbz2?|txz|tlz|tzst|zip|cbz|parquet"
    r"|tfrec(ords?)?(-\d+-of-\d+)?(\.(gz|zlib|bz2|xz|zst|lz4))?|7z|rar|cbr|cb7|cab|lzh|lha|arj|ace|sitx?"
    r"|cpio|iso|dmg|arrow|feather|orc|avro|[zr]\d\d|(zip|7z|rar|tar|tgz|tar\.\w+)\.\d{3})$",
    re.IGNORECASE,
)
_PART_NAME = re.compile(r"(\.[zr]\d\d|\.\d{3}|\.part\d+\.rar)$", re.IGNORECASE)
_UNREAD = {
    b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!\x1a\x07": "RAR", b"MSCF": "cabinet (CAB)",
    b"\x1f\x9d": "compress (.Z)", b"LZIP": "lzip", b"\x89LZO": "lzop", b"070701": "cpio",
    b"070702": "cpio", b"070707": "cpio", b"\xc7\x71": "cpio", b"\x60\xea": "ARJ",
    b"SIT!": "StuffIt", b"StuffIt": "StuffIt", b"PARE": "encrypted Parquet", b"xar!": "xar",
    b"hsqs": "squashfs",
}  # fmt: skip
_UNREAD_TABLES = {b"ARROW1": "Arrow", b"ORC": "ORC", b"Obj\x01": "Avro"}
_UNREAD_AT = ((2, b"-lh", "LZH"), (7, b"**ACE**", "ACE"))
SPLIT = (
    "a part of a split archive; put the parts together (zip -s 0 FIRST.zip --out WHOLE.zip)"
    " or unpack it"
)


def is_archive_name(name: str) -> bool:
    """Whether a file of this name is looked into. Cheap, as it is asked for every image."""
    last = name.rpartition(".")[2][:8].lower()
    return (last in _LAST_WORD or last[-2:].isdecimal()) and bool(_ARCHIVE_NAME.search(name))


def why_unread(head: bytes, name: str) -> str:
    """Why an archive of a known kind is not read, and the remedy; "": it is none.

    Args:
      head: its first bytes.
      name: of the file: parts of a split archive need not begin like one.
    """
    if head.startswith(b"PK\x07\x08") or _PART_NAME.search(name):
        return SPLIT
    found = [kind for start, kind in _UNREAD.items() if head.startswith(start)]
    found += [kind for at, mark, kind in _UNREAD_AT if head[at:].startswith(mark)]
    tables = [kind for start, kind in _UNREAD_TABLES.items() if head.startswith(start)]
    if is_arrow_stream(head):
        tables.append("Arrow")
    if tables:
        return f"a table of {tables[0]}, which is not read here; write it as Parquet"
    if not found:
        return ""
    return f"a {found[0]} archive, which is not read here; unpack it, or pack it as tar or zip"


def is_arrow_stream(head: bytes) -> bool:
    """Whether a file begins as Arrow's stream format: Hugging Face's `save_to_disk` writes it."""
    length = int.from_bytes(head[4:8], "little")
    return head[:4] == b"\xff\xff\xff\xff" and 0 < length < 1 << 24 and head[8:12] == b"\x10\0\0\0"


class Stream(Protocol):
    """What is asked of the file of an archive."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def seekable(self) -> bool: ...


class Member(NamedTuple):
    """One image in an archive, as listed.

    `where` says how its bytes are found: the archive's kind, then what that kind needs; or
    (`MEMBER_PAGE`, number) and then that of the member whose page it is; or
    ("failed", status, message) for a member whose row is known before anything is read; or
    ("left out", kind) for one that gets no row, of `ignored_names.KINDS`; or ("link", path,
    target): the target as a path from the top of the archive, and as it is written.
    """

    name: str
    size: int  # -1: not known before reading
    where: tuple[Any, ...]


class ArchiveBroken(Exception):
    """An archive cannot be read any further; its members so far stand. `status` as in `Status`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def reason_of(error: Exception) -> str:
    """Why the bytes of an archive cannot be read, by what a library has raised."""
    if isinstance(error, OSError) and error.strerror:  # of the disk, or of the network
        return error.strerror
    return f"damaged: {first_line(error)}"


def failed(name: str, status: str, message: str, size: int = -1) -> Member:
    return Member(name, size, ("failed", status, message))


def link(name: str, target: str, *, from_top: bool = False) -> Member:
    """A link; its target is relative to the folder that it lies in, or to the archive's top."""
    folder = "" if from_top else name.rpartition("/")[0]
    return Member(name, -1, ("link", posixpath.normpath(posixpath.join(folder, target)), target))


def left_out(name: str, kind: str) -> Member:
    return Member(name, -1, ("left out", kind))


class BoundedReads:
    """A file whose reads are bounded: a header may declare any size, memory is not given for it."""

    def __init__(self, file: Stream) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size == -1:
            size = MAX_HEADER + 1
        if not 0 <= size <= MAX_HEADER + 1:
            raise ArchiveBroken("read_error", f"a header of {size:,} bytes")
        data = self._file.read(size)
        if len(data) > MAX_HEADER:
            raise ArchiveBroken("read_error", f"a header of more than {MAX_HEADER:,} bytes")
        return data
