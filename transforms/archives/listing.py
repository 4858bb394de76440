"""Packed archives as inputs: one reference per image inside, and nothing unpacked to disk.

What is an archive: a file whose name ends like one (`is_archive_name`) or that was itself named
as an input, and whose content is a tar, a zip, TFRecords or Parquet with a column of images; tar
and TFRecords also packed (`packing`). An archive of another kind is one failed row, which names it.
Any other file is listed as a file.

What is listed of a tar or zip: what a folder's listing would list, without links. What the user
excludes of it (`selection`) is left out like what hidden folders hold: a link may lead to it.
Sidecars and videos right beside an image are left out (`ignored_names`); how many is counted in
the metadata of a last batch without rows, see `left_out_of`. Archives
in archives are listed as one failed row each. Where an archive is damaged, the members before the
damage are listed, and then the archive itself, as a failed row.

A member's uri is `ARCHIVE#NAME`; the second member of one name is `ARCHIVE#NAME~2`, and a page of
one `ARCHIVE#NAME#page=3`. Records and rows are named by their number from 0. A name is a label
only: no path is ever made of it.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import posixpath
import re
import tarfile
import urllib.parse
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from imagecensus.model_export.common.ignored_names import ignored_kind, without_sidecars
from imagecensus.model_export.decoding import pages
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives import (
    page_archive,
    parquet_archive,
    tar_archive,
    tfrecord_archive,
    zip_archive,
)
from imagecensus.transforms.archives.members import (
    PAGES,
    ArchiveBroken,
    Member,
    Stream,
    failed,
    is_archive_name,
    why_unread,
)
from imagecensus.transforms.archives.packing import open_packed, packing_of, split_kind
from imagecensus.transforms.archives.reading import Place, read_member
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.inputs.files import CHUNK
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.records import REF_FIELDS, REF_SCHEMA
from imagecensus.transforms.storage import byte_ranges

_TABLE_NAME = re.compile(r"\.(parquet|tfrec(ords?)?[^/]*)$", re.IGNORECASE)
MAX_MEMBERS = 10_000_000
_TAR_NAME = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz|tlz|tzst)$", re.IGNORECASE)
_UNREAD = "unread: "  # a kind; why and the remedy follow
_LINKS = 1_000_000  # held, until it is known what lies in the archive
_HOPS = 8  # from link to link
_NO_FILES = ("link", "left out", "failed")
_LEFT_OUT = b"imagecensus.left_out"
_NO_COLUMNS = pa.schema([])
# Of an archive: its path in the input, and the patterns that exclude and include members.
Chosen = tuple[str, Sequence[str], Sequence[str]]


def has_columns(text: str) -> bool:
    """Whether an input's name says that it is Parquet or TFRecords, whose columns go along."""
    return bool(_TABLE_NAME.search(text))


def is_table_of_images(location: str, size: int, etag: str, image_column: str) -> bool:
    """Whether a file is Parquet with a column of images."""
    try:
        with byte_ranges.open_stream(location, size, etag) as file:
            schema = parquet_archive.open_parquet(file).schema_arrow
            return parquet_archive.image_column(schema, image_column) is not None
    except (ArchiveBroken, OSError):
        return False


def archive_kind(location: str, size: int, etag: str, image_column: str = "") -> str | None:
    """Which kind of archive a file is, by its content; None: it is none, or cannot be read."""
    try:
        with byte_ranges.open_stream(location, size, etag) as file:
            head = file.read(tarfile.BLOCKSIZE)
            named = is_archive_name(location)
            kind, packing = _kind(head), packing_of(head)
            if kind == "parquet":
                return kind if _may_hold_images(file, image_column) else None
            if kind == "zeros":
                return "tar" if _TAR_NAME.search(location) else None
            if kind is None and packing:
                kind = _packed_kind(file, packing, location)
            if kind is None and named and zip_archive.has_directory(file):
                return "zip"  # self-extracting: a program comes first
            if kind is None and page_archive.may_have_pages(location):
                return PAGES if page_archive.count_pages(file) > 1 else None
            why = why_unread(head, location) if kind is None and named else ""
            return _UNREAD + why if why else kind
    except (OSError, EOFError, zlib.error):
        return None


def _packed_kind(file: BinaryIO, packing: str, location: str) -> str | None:
    try:
        inner = _kind(open_packed(file, packing).read(tarfile.BLOCKSIZE))
    except (OSError, EOFError, zlib.error):
        # Cut or damaged in its first block: its listing will say so.
        inner = "tar" if _TAR_NAME.search(location) else None
    inner = "tar" if inner == "zeros" else inner
    return f"{inner}.{packing}" if inner in ("tar", "tfrecord") else None


def _may_hold_images(file: Stream, image_column: str) -> bool:
    try:
        schema = parquet_archive.open_parquet(file).schema_arrow
    except ArchiveBroken:
        return True  # its listing will say how it is damaged
    return bool(image_column or parquet_archive.image_column(schema))


def _kind(head: bytes) -> str | None:
    """What a file that starts with `head` is; "zeros" may be an empty tar."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"PAR1"):
        return "parquet"
    if tfrecord_archive.is_tfrecord(head):
        return "tfrecord"
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in typeshed
        return "zeros"
    except tarfile.HeaderError:
        return None
    return "tar"


def column_schema(location: str, size: int, etag: str, image_column: str = "") -> pa.Schema:
    """The columns of a Parquet file or TFRecords that go along with the images."""
    kind = archive_kind(location, size, etag)
    try:
        with byte_ranges.open_stream(location, size, etag) as file:
            if kind == "parquet":
                parquet = parquet_archive.open_parquet(file)
                return parquet_archive.column_schema(parquet.schema_arrow)
            if kind and kind.startswith("tfrecord"):
                return tfrecord_archive.column_schema(_stream(file, size, kind)[0], image_column)
    except (ArchiveBroken, OSError, EOFError):
        pass  # its rows will say so
    return _NO_COLUMNS


def list_archive(
    location: str,
    size: int,
    etag: str,
    kind: str,
    image_column: str = "",
    *,
    columns: pa.Schema = _NO_COLUMNS,
    max_members: int = MAX_MEMBERS,
    all_pages: bool = False,
    chosen: Chosen = ("", (), ()),
) -> Iterator[pa.RecordBatch]:
    """The references of an archive's members.

    Args:
      location, size, etag: of the archive, as listed.
      kind: from `archive_kind`; behind that of a zip, the encoding of its names may stand:
        `zip:shift_jis`.
      image_column: the Parquet column or feature of the images; empty: the usual names.
      columns: from `column_schema`; they go along with the images.
      max_members: listed of it; then comes one failed row, for the archive itself.
      all_pages: members and rows with several pages or frames are listed as so many.
      chosen: members of a tar or zip by patterns.

    Yields:
      batches of `REF_SCHEMA`, then `columns`; where something was left out, a last one without
      rows, see `left_out_of`.
    """
    archive, exclude, include = chosen
    selection = Selection(exclude=tuple(exclude), include=tuple(include))
    try:
        if kind.startswith(_UNREAD):
            raise ArchiveBroken("unsupported_format", kind.removeprefix(_UNREAD))
        with byte_ranges.open_stream(location, size, etag) as file:
            if kind == PAGES:
                chunks = _chunks(page_archive.list_pages(file))
            elif kind == "parquet":
                parquet = parquet_archive.open_parquet(file)
                chunks = parquet_archive.list_members(parquet, image_column, columns)
            elif kind.startswith("tfrecord"):
                stream, length = _stream(file, size, kind)
                chunks = tfrecord_archive.list_members(stream, length, kind, image_column, columns)
            else:
                members = _list_members(file, size, kind, all_pages=all_pages)
                chunks = _chunks(_Files(archive, selection).listed(members))
            if all_pages and kind.startswith(("parquet", "tfrecord")):
                chunks = _pages_of_rows(chunks, location, etag)
            listed = 0
            for chunk, values in chunks:
                listed += len(chunk)
                batch = _references(location, etag, chunk, values)
                if listed > max_members:
                    yield batch.slice(0, batch.num_rows - (listed - max_members))
                    text = f"more than {max_members:,} members (raise it with --max-members)"
                    raise ArchiveBroken("too_large", text)
                yield batch
    except (ArchiveBroken, OSError) as error:
        yield broken_archive(location, etag, error)
    if left_out := +selection.left_out:
        counted = REF_SCHEMA.with_metadata({_LEFT_OUT: json.dumps(left_out)})
        yield pa.RecordBatch.from_pylist([], schema=counted)


def _pages_of_rows(
    chunks: Iterator[tuple[list[Member], Any]], location: str, etag: str
) -> Iterator[tuple[list[Member], Any]]:
    """Members of a table, and for those with several pages a member for each; values go along."""
    with Place() as place:

        def count(member: Member) -> int:
            ref = ImageRef(
                uri=location, size=member.size, etag=etag, container=location,
                member=json.dumps(member.where),
            )  # fmt: skip
            try:
                return pages.count(read_member(ref, page_archive.MAX_FILE, place))
            except (ImageError, OSError):  # its row will say so
                return 1

        for members, values in chunks:
            listed: list[Member] = []
            rows: list[int] = []
            for row, member in enumerate(members):
                number = count(member)
                whole = page_archive.paged(member, number) if number > 1 else member
                listed += page_archive.pages_of(whole)
                rows += [row] * (len(listed) - len(rows))
            yield listed, values.take(pa.array(rows, pa.int64()))


def left_out_of(batch: pa.RecordBatch) -> dict[str, int]:
    """What a batch of `list_archive` says was left out of the archive, by kind."""
    found: dict[str, int] = json.loads((batch.schema.metadata or {}).get(_LEFT_OUT, "{}"))
    return found


def broken_archive(location: str, etag: str, error: ArchiveBroken | OSError) -> pa.RecordBatch:
    """The reference of the archive itself, whose row will say what is wrong with it."""
    return _references(location, etag, [_broken(error)], None)


def _stream(file: BinaryIO, size: int, kind: str) -> tuple[Stream, int | None]:
    """The stream that a tar or TFRecord kind is listed from, and its length where it is known."""
    _, packing = split_kind(kind)
    return (open_packed(file, packing), None) if packing else (file, size)


def _list_members(file: BinaryIO, size: int, kind: str, *, all_pages: bool) -> Iterator[Member]:
    """All members of a tar or zip, then the archive itself where its listing breaks off."""
    stream: Stream = file
    if kind.startswith("zip"):
        members = zip_archive.list_members(file, kind.partition(":")[2])
    else:
        stream, length = _stream(file, size, kind)
        members = tar_archive.list_members(stream, length, kind)
    if all_pages:
        members = page_archive.with_page_counts(members, stream)
    return (m._replace(name=_label(m.name)) for m in _until_broken(members))


class _Files:
    """Which members of a tar or zip are listed, each under a name of its own."""

    def __init__(self, archive: str, selection: Selection) -> None:
        self._archive = archive
        self._selection = selection
        self._left_out = selection.left_out
        self._names = _Names()
        self._links: list[Member] = []
        self._unlisted: dict[str, Member] = {}  # hidden or excluded, but a link may lead there

    def listed(self, members: Iterator[Member]) -> Iterator[Member]:
        for member in without_sidecars(
            self._files_in(members), lambda member: member.name, self._left_out
        ):
            if member.name and not self._takes(member.name):
                self._keep(member)
                continue
            if is_archive_name(member.name) and member.where[0] != "failed":
                text = "an archive in an archive is not opened; unpack the outer one"
                member = failed(member.name, "unsupported_format", text, member.size)
            name = self._names.unused(member.name)
            for page in page_archive.pages_of(member._replace(name=name)):
                yield (
                    page if page.name == name else page._replace(name=self._names.unused(page.name))
                )
        yield from self._loose_links()

    def _takes(self, name: str) -> bool:
        return not self._selection.chooses or self._selection.takes(name, f"{self._archive}/{name}")

    def _keep(self, member: Member) -> None:
        if member.where[0] not in _NO_FILES and len(self._unlisted) < _LINKS:
            self._unlisted[posixpath.normpath(member.name)] = member

    def _files_in(self, members: Iterator[Member]) -> Iterator[Member]:
        """The members that are files and whose names are not ignored; gathers links."""
        for member in members:
            kind = _ignored_kind(member.name)
            if member.where[0] == "left out":
                kind = kind or member.where[1]
            if not kind and member.where[0] == "link" and len(self._links) >= _LINKS:
                kind = "links"
            if kind:
                self._left_out[kind] += 1
                if kind == "hidden" and not ignored_kind(posixpath.basename(member.name)):
                    self._keep(member)
            elif member.where[0] == "link":
                self._links.append(member)
            else:
                yield member

    def _loose_links(self) -> Iterator[Member]:
        """What links alone lead to, as git-annex keeps it, by the first of them.

        Other links are counted. Those that lead to nothing in the archive are failed rows. They
        come last, so that none takes the name of an image.
        """
        targets = {link.name: link.where[1] for link in self._links}
        kept = sorted(self._unlisted)
        for link in self._links:
            target = _target(link.where[1], targets)
            behind = [target] if target in self._unlisted else self._in_folder(target, kept)
            if self._names.has(link.name) or not (behind or not self._names.has(target)):
                self._left_out["links"] += 1
            elif not behind and self._takes(link.name):
                text = f"a link to {link.where[2]!r}; links in archives are not followed"
                yield failed(self._names.unused(link.name), "not_an_image", text)
            for path in behind:
                name = link.name + path[len(target) :]
                if self._takes(name):
                    self._names.unused(path)
                    member = self._unlisted.pop(path)
                    named = member._replace(name=self._names.unused(name))
                    yield from page_archive.pages_of(named)

    def _in_folder(self, folder: str, kept: list[str]) -> list[str]:
        """Those of the sorted paths that lie in a folder, and may be seen in it."""
        inside = folder + "/"
        found = []
        for path in kept[bisect.bisect_left(kept, inside) :]:
            if not path.startswith(inside):
                break
            if path in self._unlisted and not _ignored_kind(path[len(inside) :]):
                found.append(path)
        return found


def _ignored_kind(path: str) -> str:
    """Why a member of this path is never listed; "": it is."""
    parts = (part for part in path.split("/") if part not in (".", ".."))
    return next(filter(None, map(ignored_kind, parts)), "")


def _target(path: str, targets: dict[str, str]) -> str:
    """Where a path leads, by links (a path, and where it leads) on its way."""
    for _ in range(_HOPS):
        steps = path.split("/")
        for end in range(len(steps), 0, -1):
            link = "/".join(steps[:end])
            if link in targets:
                path = posixpath.normpath(posixpath.join(targets[link], *steps[end:]))
                break
        else:
            break
    return path


class _Names:
    """The names of members and of their folders, as digests, which keep it small."""

    def __init__(self) -> None:
        self._used: set[bytes] = set()
        self._folder = ""

    def has(self, path: str) -> bool:
        """Whether a member, or a folder with members in it, has this path."""
        forms = (path, path + "/", _plain(path))
        return path == "." or not self._used.isdisjoint(map(_digest, forms))

    def unused(self, name: str) -> str:
        """The name, or name~2, name~3… for those that come again."""
        folder = name.rpartition("/")[0]
        if folder != self._folder:
            self._folder = folder
            while folder:
                self._used.add(_digest(folder + "/"))
                folder = folder.rpartition("/")[0]
        for number in itertools.count(1):
            candidate = name if number == 1 else f"{name}~{number}"
            digest = _digest(candidate)
            if digest not in self._used:
                self._used.add(digest)
                if name != posixpath.normpath(name):  # links lead to it by its plain path
                    self._used.add(_digest(_plain(posixpath.normpath(name))))
                return candidate
        raise AssertionError


def _plain(path: str) -> str:
    """A path without `.` and the like, as no member is called."""
    return path + "\0"


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _until_broken(members: Iterator[Member]) -> Iterator[Member]:
    """The members, then the archive itself where its listing breaks off."""
    try:
        yield from members
    except (ArchiveBroken, OSError) as error:
        yield _broken(error)


def _broken(error: ArchiveBroken | OSError) -> Member:
    """The archive itself, as a member without a name."""
    return failed("", getattr(error, "status", "read_error"), str(error))


def _label(name: str) -> str:
    """A member's name in a uri; percent-encoded where it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = urllib.parse.quote(name.encode("utf-8", "surrogateescape"))
    return name.removeprefix("./")


def _chunks(members: Iterator[Member]) -> Iterator[tuple[list[Member], None]]:
    while chunk := list(itertools.islice(members, CHUNK)):
        yield chunk, None


def _uri(location: str, name: str) -> str:
    return f"{location}#{name}" if name else location


def _references(
    location: str, etag: str, members: list[Member], values: pa.RecordBatch | None
) -> pa.RecordBatch:
    rows = len(members)
    arrays = [
        pa.array([_uri(location, member.name) for member in members], pa.string()),
        pa.array([member.size for member in members], pa.int64()),
        pa.array([etag] * rows, pa.string()),
        pa.array([location] * rows, pa.string()),
        pa.array([json.dumps(member.where) for member in members], pa.string()),
    ]
    passed = []
    if values is not None:
        arrays += values.columns
        passed = list(values.schema)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*REF_FIELDS, *passed]))
