"""Manifests: lists that name images, and say more about them, as references."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa

from imagecensus.model_export.common.placeholders import placeholder
from imagecensus.transforms.inputs import pipes
from imagecensus.transforms.inputs.check import is_glob
from imagecensus.transforms.inputs.column_types import as_type, narrow_type, passed_names
from imagecensus.transforms.inputs.delimited import DELIMITERS, plain_name
from imagecensus.transforms.inputs.files import CHUNK, InputError
from imagecensus.transforms.inputs.locate import locate
from imagecensus.transforms.inputs.packed_members import (
    Packed,
    PackedMembers,
    Reference,
    split_member,
)
from imagecensus.transforms.inputs.read_list import (
    URI_COLUMNS,
    ListOfRows,
    ListRows,
    kind_of,
    read_rows,
    scan,
    suffix_of,
)
from imagecensus.transforms.inputs.text_lines import in_utf8, open_lines, open_unpacked
from imagecensus.transforms.records import REF_SCHEMA
from imagecensus.transforms.storage import store

TEXT = "text"  # one location per line
_TEXT_SUFFIXES = (".txt", ".lst", ".list")
_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
_SNIFFED = 64 << 10
# What describes an object's bytes and version, in the table's own words and those of inventories.
_SIZES = ("size", "bytes")
_VERSIONS = ("etag_or_mtime", "generation", "e_tag", "etag")
_NO_MEMBER = "the archive has no such member"
_SHORTEST_IMAGE = 300  # characters of base64
_BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "Qk0")  # how images begin
_LONGEST = 1 << 14  # bytes of a location: no file system or store has longer ones


def manifest_kind(text: str) -> str:
    """What kind of list an input is, by its name, and where that says nothing by its content.

    Returns:
      a value of `read_list.KINDS`, `TEXT`, or "": it is none. (A Parquet file may hold images.)

    Raises:
      InputError: it is a spreadsheet.
    """
    if pipes.is_pipe(text):
        return _sniffed(pipes.spooled(text)) or TEXT
    if is_glob(text) and not os.path.lexists(text):
        return ""
    suffix = suffix_of(text)
    if suffix in _SPREADSHEETS:
        raise InputError(f"{text}: a spreadsheet is not read; save it as CSV UTF-8")
    if suffix in _TEXT_SUFFIXES:
        return "delimited" if os.path.isfile(text) and _is_table(text) else TEXT
    return kind_of(text)


def named_kind(text: str) -> str:
    """Like `manifest_kind`, for a local file whose name says nothing: text that names images."""
    if store.is_remote(text) or is_glob(text) or not os.path.isfile(text):
        return ""
    kind = _sniffed(text)
    if kind != TEXT:
        return ""
    with open_lines(text, text, newline="\n") as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    uri, size, _ = locate(first, base_of(text))
    return TEXT if store.is_remote(uri) or size >= 0 else ""


def _sniffed(path: str) -> str:
    """The kind of list that a local file's content says it is; "" where it is no text."""
    with open_unpacked(path, path) as file:
        head = file.read(_SNIFFED)
    if head.startswith(b"PAR1"):
        return "parquet"
    if placeholder(head):
        return ""
    text = in_utf8(head).lstrip()
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{"):
        return "lines"
    if b"\n" not in text and b"\0" not in text and len(text) == _SNIFFED:
        return ""
    line = text.partition(b"\n")[0].strip().lower()
    names = [name.strip(b' "') for d in (b",", b";", b"\t", b"|") for name in line.split(d)]
    if any(plain_name(name.decode("utf-8", "replace")) in URI_COLUMNS for name in names):
        return "delimited"
    # Control characters but tabs, ends of lines and NULs that separate: no text.
    return "" if any(c < 32 and c not in (0, 9, 10, 13) for c in line) else TEXT


def _is_table(path: str) -> bool:
    """Whether the first line of a local text names columns, one of locations among them."""
    if _sniffed(path) != "delimited":
        return False
    with open_unpacked(path, path) as file:
        line = in_utf8(file.read(_SNIFFED)).lstrip().partition(b"\n")[0].decode(errors="replace")
    several = any(mark in line for mark in DELIMITERS)
    return several or locate(line.rstrip("\r"), base_of(path))[1] < 0  # no file is called so


def base_of(location: str) -> str:
    """The folder that a list's relative locations start from."""
    if pipes.is_pipe(location):
        return os.getcwd()
    return os.path.dirname(location.partition("?")[0] if store.is_web(location) else location)


def list_manifest(
    location: str,
    uri_column: str = "",
    *,
    columns: pa.Schema | None = None,
    kind: str = "",
    image_column: str = "",
) -> Iterator[pa.RecordBatch]:
    """References of a manifest; its other columns follow them, so that they reach the output.

    Text: one location per line. CSV, TSV, JSON, Parquet: a column of locations. Relative locations
    are taken from the manifest's folder. A line that cannot be read, and a row that names nothing,
    is a failed row under the name `LIST#line=7`.

    Args:
      location: of the manifest.
      uri_column: the column of locations; empty: the first of `URI_COLUMNS`.
      columns: the types that other columns are to have; None: those of this list alone.
      kind: from `manifest_kind`; empty: as the name says.
      image_column: of Parquet and TFRecords whose members the list names.
    """
    kind = kind or manifest_kind(location)
    packed = PackedMembers(image_column)
    base = base_of(location)
    if kind == TEXT:
        lines = _list_lines(location)
        while chunk := list(itertools.islice(lines, CHUNK)):
            yield _references(chunk, location, base, packed)
        return
    rows = scan(location, kind)
    plan = _passed(rows, uri_column, columns)
    rows = rows.with_text(i for i, field in plan if field.type == pa.string())
    located = _locations_of(rows, uri_column)
    for batch in read_rows(rows):
        refs = _references(_entries(rows, batch, located), location, base, packed)
        values = [as_type(batch.values.column(index), field.type) for index, field in plan]
        fields = [field for _, field in plan]
        yield pa.RecordBatch.from_arrays(
            [*refs.columns, *values], schema=pa.schema([*REF_SCHEMA, *fields])
        )


def manifest_columns(location: str, uri_column: str = "", kind: str = "") -> list[pa.Field]:
    """The columns that a manifest passes through to the output. Raises InputError."""
    kind = kind or manifest_kind(location)
    if kind == TEXT:
        return []
    return [field for _, field in _passed(scan(location, kind), uri_column, None)]


def passed_through(schema: pa.Schema) -> list[pa.Field]:
    """The fields of a schema under names and of types that the output can have."""
    names = passed_names(schema.names)
    return [
        pa.field(name, narrow_type(kind)) for name, kind in zip(names, schema.types, strict=True)
    ]


def _passed(
    rows: ListOfRows, uri_column: str, columns: pa.Schema | None
) -> list[tuple[int, pa.Field]]:
    """Index and field of each column that goes along: all but that of locations."""
    locations = _uri_columns(rows, uri_column)
    kept = [i for i, name in enumerate(rows.schema.names) if locations != (name,)]
    names = passed_names(rows.schema.names[i] for i in kept)
    plan = []
    for index, name in zip(kept, names, strict=True):
        known = columns.field(name) if columns and name in columns.names else None
        plan.append((index, known or rows.schema.field(index).with_name(name)))
    return plan


def _uri_columns(rows: ListOfRows, wanted: str) -> tuple[str, ...]:
    """The column of locations; or two of an inventory: of buckets, and of the names in them."""
    lower = {name.casefold(): name for name in rows.schema.names}
    if not wanted and not set(URI_COLUMNS) & set(map(plain_name, lower)) and "bucket" in lower:
        for name in ("name", "key"):
            if name in lower:
                return lower["bucket"], lower[name]
    name = rows.column(wanted, "--uri-column", URI_COLUMNS)
    kind = rows.schema.field(name).type
    if pa.types.is_nested(kind):
        raise InputError(
            f"{rows.location}: its column {name!r} holds {kind} and no locations; name another with"
            " --uri-column, or a column of images with --image-column"
        )
    return (name,)


def _locations_of(rows: ListOfRows, wanted: str) -> Callable[[pa.RecordBatch], list[str | None]]:
    columns = _uri_columns(rows, wanted)
    if len(columns) == 1:
        return lambda values: as_type(values.column(columns[0]), pa.string()).to_pylist()
    bucket, name = columns
    scheme = "gs" if name.casefold() == "name" else "s3"

    def joined(values: pa.RecordBatch) -> list[str | None]:
        pairs = zip(values.column(bucket).to_pylist(), values.column(name).to_pylist(), strict=True)
        return [f"{scheme}://{a}/{b}" if a and b else None for a, b in pairs]

    return joined


class _Entry(NamedTuple):
    """What one row of a list names; or the status and message of a row that names nothing."""

    text: str
    size: int = -1
    version: str = ""
    status: str = ""
    message: str = ""


def _entries(
    rows: ListOfRows, batch: ListRows, located: Callable[[pa.RecordBatch], list[str | None]]
) -> list[_Entry]:
    texts = located(batch.values)
    sizes = _known(rows, batch.values, _SIZES)
    versions = _known(rows, batch.values, _VERSIONS)
    found = []
    for index, (number, error) in enumerate(zip(batch.numbers, batch.errors, strict=True)):
        text = texts[index]
        name, which = f"{rows.location}#{rows.unit}={number}", f"{rows.unit} {number} of the list"
        if error:
            found.append(_Entry(name, status="read_error", message=f"{which} {error}"))
        elif not text or not text.strip():
            found.append(_Entry(name, status="not_found", message=f"{which} names no image"))
        elif _holds_data(text):
            message = (
                f"{which} holds the image itself, or other data; write it to a file of its own"
            )
            found.append(_Entry(name, status="unsupported_format", message=message))
        else:
            size, version = sizes[index] or "", versions[index] or ""
            if not version.startswith("W/"):
                version = version.strip('"')
            known = int(size) if version and size.isdecimal() else -1
            found.append(_Entry(text, known, version))
    return found


def _holds_data(text: str) -> bool:
    """Whether a cell holds an image, as base64 or an address of it, or what no file is called."""
    encoded = len(text) > _SHORTEST_IMAGE and text.startswith(_BASE64)
    return encoded or text.startswith("data:") or len(text) > _LONGEST


def _known(rows: ListOfRows, values: pa.RecordBatch, names: tuple[str, ...]) -> list[str | None]:
    """What the list says of its images in the first column of these names; nulls without one."""
    for wanted in names:
        for index, name in enumerate(rows.schema.names):
            if name.casefold() == wanted:
                return list(as_type(values.column(index), pa.string()).to_pylist())
    return [None] * values.num_rows


def _references(
    entries: list[_Entry], location: str, base: str, packed: PackedMembers
) -> pa.RecordBatch:
    """References of a list's rows, of members of archives too."""
    members: dict[int, Packed] = {}
    found: list[Reference] = []
    for index, entry in enumerate(entries):
        if entry.status:
            member = json.dumps(["failed", entry.status, entry.message])
            found.append(Reference(entry.text, -1, "", location, member))
            continue
        split = split_member(entry.text, base)
        if split:
            members[index] = split
            found.append(Reference(split.uri, -1, "", None, None))
        else:
            file = locate(entry.text, base, entry.size, entry.version)
            found.append(Reference(*file, None, None))
    for container, indices in _by_container(members).items():
        uris = [members[index].uri for index in indices]
        try:
            there, status, message = packed.find(container, uris), "not_found", _NO_MEMBER
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            status = "not_found" if missing else "read_error"
            there, message = {}, f"its archive: {error.strerror or error}"
        for index, uri in zip(indices, uris, strict=True):
            lost = Reference(uri, -1, "", container, json.dumps(["failed", status, message]))
            found[index] = there.get(uri, lost)
    columns = zip(*found, strict=True) if found else [()] * len(REF_SCHEMA)
    arrays = [
        pa.array(column, kind) for column, kind in zip(columns, REF_SCHEMA.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=REF_SCHEMA)


def _by_container(members: dict[int, Packed]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, member in members.items():
        found.setdefault(member.container, []).append(index)
    return found


def _list_lines(location: str) -> Iterator[_Entry]:
    """The locations of a text: one per line, or with a NUL behind each as `find -print0` writes."""
    # Names on disk need not be UTF-8: what is not stays the bytes that it is.
    with (
        store.local_copy(pipes.spooled(location)) as path,
        open_lines(path, location, newline="\n") as lines,
    ):
        with open_unpacked(path, location) as file:
            has_nuls = b"\0" in in_utf8(file.read(_SNIFFED))
        texts = _between_nuls(lines) if has_nuls else (line.rstrip("\r\n") for line in lines)
        for text in texts:
            if text.strip():
                yield _Entry(text)


def _between_nuls(lines: Iterator[str]) -> Iterator[str]:
    """What NULs end: a name may have ends of lines in it."""
    name = ""
    for line in lines:
        *names, name = (name + line).split("\0")
        yield from names
    yield name.rstrip("\r\n")
