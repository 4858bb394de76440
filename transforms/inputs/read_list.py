"""The one reader of lists: CSV, TSV, JSON, JSON Lines and Parquet, row by row, strictly.

A list is read twice: once to learn its columns, its encoding and what is wrong with it (`scan`),
once for its rows (`read_rows`). A row that cannot be read is one with an error; the others stand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imagecensus.model_export.common.errors import first_line
from imagecensus.model_export.common.quantities import counted
from imagecensus.transforms.inputs import pipes
from imagecensus.transforms.inputs.column_types import TypeProof, as_type, from_text, narrow_type
from imagecensus.transforms.inputs.delimited import (
    Header,
    Record,
    plain_name,
    read_header,
    read_records,
)
from imagecensus.transforms.inputs.files import CHUNK, InputError
from imagecensus.transforms.inputs.text_lines import (
    PACKED_SUFFIXES,
    is_utf8,
    open_lines,
    open_unpacked,
)
from imagecensus.transforms.storage import store

URI_COLUMNS = (
    "uri", "path", "file", "filename", "file_name", "image", "image_path", "url", "filepath",
    "file_path", "img_path", "image_file", "image_filename", "image_name", "fname", "img",
)  # fmt: skip
KINDS = {
    ".csv": "delimited", ".tsv": "delimited", ".tab": "delimited",
    ".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet",
}  # fmt: skip
_SHOWN = 80  # letters of a line, in an error


class ListRows(NamedTuple):
    """Some rows of a list, in order.

    `numbers` are lines of the file, or rows where it has no lines, from 1; `errors` says of each
    row why it cannot be read, or None; `values` has all columns, of the types of the list.
    """

    numbers: list[int]
    errors: list[str | None]
    values: pa.RecordBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOfRows:
    """What a first reading says of a list.

    Attributes:
      location: of the list, as people gave it.
      kind: a value of `KINDS`.
      schema: all columns, under the names that the list gives them (made distinct).
      unit: "line" or "row": what `ListRows.numbers` counts.
      header: of CSV and TSV.
    """

    location: str
    kind: str
    schema: pa.Schema
    unit: str
    header: Header | None = None

    def with_text(self, indices: Iterable[int]) -> ListOfRows:
        """The same list; columns of these indices stay text as it is written."""
        schema = self.schema
        for index in indices if self.kind != "parquet" else ():
            schema = schema.set(index, pa.field(schema.names[index], pa.string()))
        return dataclasses.replace(self, schema=schema)

    def column(self, wanted: str, flag: str, usual: tuple[str, ...] = ()) -> str:
        """The name of a column: the wanted one, or the first of the usual ones, in any case.

        Raises InputError, naming the flag that names another.
        """
        names: list[str] = self.schema.names
        if wanted in names:
            return wanted
        for candidate in (wanted,) if wanted else usual:
            for name in names:
                if plain_name(name) == plain_name(candidate):
                    return name
        has = f"it has {', '.join(names)}"[: 3 * _SHOWN]
        if wanted:
            raise InputError(
                f"{self.location}: has no column {wanted!r}; {has}; name the right one with {flag}"
            )
        raise InputError(
            f"{self.location}: no column of locations among {', '.join(names)}"[: 4 * _SHOWN]
            + f"; name it with {flag}"
            + (", or begin the list with a line of names" if self.header else "")
            + (", or a column of images with --image-column" if self._may_hold_images() else "")
        )

    def _may_hold_images(self) -> bool:
        return self.kind == "parquet" and any("binary" in str(one) for one in self.schema.types)


def kind_of(location: str) -> str:
    """What kind of list a name says it is: a value of `KINDS`, or ""."""
    return KINDS.get(suffix_of(location), "")


def suffix_of(location: str) -> str:
    """The suffix of a name, in lower case, without that of its packing."""
    path = location.partition("?")[0] if store.is_web(location) else location
    path = path.lower()
    for packed in PACKED_SUFFIXES:
        path = path.removesuffix(packed)
    return os.path.splitext(path)[1]


def scan(location: str, kind: str = "") -> ListOfRows:
    """Reads a list through, and says what its columns are.

    Args:
      location: of the list, here or in a store.
      kind: of it, where its name does not say.

    Raises:
      InputError: it cannot be read at all: the sentence says why and what to do.
    """
    kind = kind or kind_of(location)
    try:
        version = store.stat(pipes.spooled(location)).version
    except FileNotFoundError:
        raise InputError(f"{location}: no such manifest") from None
    except OSError as error:
        raise InputError(f"{location}: cannot be read: {error.strerror or error}") from None
    return _scan(location, kind, version)


@functools.lru_cache(maxsize=64)
def _scan(location: str, kind: str, version: str) -> ListOfRows:
    with _local(location) as path:
        if kind == "parquet":
            with _open_parquet(path, location) as parquet:
                schema = parquet.schema_arrow
                fields = zip(_distinct(schema.names), schema.types, strict=True)
                narrow = pa.schema([(name, narrow_type(kind)) for name, kind in fields])
            return ListOfRows(location=location, kind=kind, schema=narrow, unit="row")
        if kind == "delimited":
            return _scan_delimited(location, path)
        return _scan_objects(location, path, kind)


def read_rows(rows: ListOfRows) -> Iterator[ListRows]:
    """The rows of a list that was scanned, at most `CHUNK` at a time. Raises InputError."""
    with _local(rows.location) as path:
        if rows.kind == "parquet":
            yield from _read_parquet(rows, path)
            return
        if rows.header:
            with open_lines(path, rows.location) as text:
                lines = enumerate(text, start=1)
                read_header(lines, set())
                yield from _typed(rows, _fitting(read_records(lines, rows.header.delimiter), rows))
            return
        with _objects(path, rows.location, rows.kind) as (_, records):
            names = rows.schema.names
            fields = (
                Record(r.line, [_text(r.values.get(name)) for name in names], r.error)
                if r.values.keys() <= set(names)
                else Record(r.line, [], _NO_OBJECT)  # a bare location among objects
                for r in records
            )
            yield from _typed(rows, fields)


@contextlib.contextmanager
def _local(location: str) -> Iterator[str]:
    try:
        with store.local_copy(pipes.spooled(location)) as path:
            yield path
    except FileNotFoundError:
        raise InputError(f"{location}: no such manifest") from None


# Delimited text


def _scan_delimited(location: str, path: str) -> ListOfRows:
    with open_lines(path, location) as text:
        lines = enumerate(text, start=1)
        header = read_header(lines, set(URI_COLUMNS))
        if header is None:
            raise InputError(f"{location}: is empty; begin it with a line of column names")
        if not all(map(is_utf8, header.names)):
            raise _not_utf8(location, header.line)
        names = _distinct([name.strip() for name in header.names])
        schema = pa.schema([(name, pa.string()) for name in names])
        rows = ListOfRows(
            location=location, kind="delimited", schema=schema, unit="line", header=header
        )
        counted = _Faults(location)
        records = counted.through(_fitting(read_records(lines, header.delimiter), rows))
        types = _prove(rows, records)
        counted.check()
    return dataclasses.replace(rows, schema=types)


class _Faults:
    """Counts what is wrong with the lines of a list, and refuses one of which no line is right."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._right = self._foreign = 0
        self._not_utf8 = 0  # the first such line
        self._first: Record | None = None

    def through(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if record.error:
                self._first = self._first or record
                if record.error == "is not UTF-8":
                    self._not_utf8 = self._not_utf8 or record.line
            else:
                self._right += 1
                self._foreign += not all(map(str.isascii, record.fields))
            yield record

    def check(self) -> None:
        if self._not_utf8 and not self._foreign:  # no line shows that it is UTF-8 elsewhere
            raise _not_utf8(self._location, self._not_utf8)
        if self._first and not self._right:
            raise InputError(
                f"{self._location}: none of its lines can be read; line {self._first.line}"
                f" {self._first.error}; give each line as many fields as the first one has"
            )


def _not_utf8(location: str, line: int) -> InputError:
    return InputError(
        f"{location}: line {line} is not UTF-8, perhaps Latin-1, Windows-1252 or Shift-JIS;"
        " save the list as UTF-8 (a spreadsheet calls it CSV UTF-8; iconv -t UTF-8)"
    )


def _fitting(records: Iterable[Record], rows: ListOfRows) -> Iterator[Record]:
    """Records with as many fields as there are columns; repeated headers and empty ones left out.

    Raises InputError: there is a second header, of other columns.
    """
    header = rows.header
    assert header
    names = [name.strip().casefold() for name in header.names]
    plain = [plain_name(name) for name in names]
    where = min((plain.index(usual) for usual in URI_COLUMNS if usual in plain), default=0)
    words = {*names, *URI_COLUMNS}  # no image is called so, but a column
    for record in records:
        fields = record.fields
        if record.error:
            yield record
            continue
        folded = fields[where].casefold() if where < len(fields) else ""
        if folded.strip().lstrip("\ufeff") in words or len(fields) != len(names):
            words_here = [field.strip().lstrip("\ufeff").casefold() for field in fields]
            if words_here == names:
                continue
            if len(fields) == len(names) or names[where] in words_here:
                raise InputError(
                    f"{rows.location}: line {record.line} is a second header, of other columns:"
                    f" {', '.join(fields)[:_SHOWN]!r}; make two lists of it"
                )
        if len(fields) > len(names) == 1:
            fields = [header.delimiter.join(fields)]  # a list of one column: no name is cut
        while len(fields) > len(names) and not fields[-1].strip():
            fields = fields[:-1]
        if not any(field.strip() for field in fields):
            continue  # a spreadsheet's empty line
        if not header.required <= len(fields) <= len(names):
            counts = f"has {counted(len(fields), 'field')}, the first line {len(names)}"
            yield Record(record.line, [], counts)
            continue
        yield Record(record.line, fields + [""] * (len(names) - len(fields)))


# JSON


_NO_OBJECT = "is no JSON object"


class _Object(NamedTuple):
    line: int
    values: dict[str, Any]
    error: str = ""
    is_bare: bool = False  # a location and no object


def _scan_objects(location: str, path: str, kind: str) -> ListOfRows:
    names: dict[str, None] = {}
    right, first, bare = 0, None, False
    with _objects(path, location, kind) as (unit, records):
        for record in records:
            bare |= record.is_bare
            names |= {} if record.is_bare else dict.fromkeys(record.values)
            right += not record.error
            if record.error and first is None:
                first = record
    if first and not right:
        raise InputError(
            f"{location}: cannot be read: {unit} {first.line} {first.error}; write one JSON object"
            " per image"
        )
    if bare and not names:
        names["uri"] = None
    if not names:
        raise InputError(f"{location}: holds no JSON objects; write one per image")
    schema = pa.schema([(name, pa.string()) for name in names])
    rows = ListOfRows(location=location, kind=kind, schema=schema, unit=unit)
    texts = (record for batch in read_rows(rows) for record in _as_records(batch))
    return dataclasses.replace(rows, schema=_prove(rows, texts))


def _as_records(batch: ListRows) -> Iterator[Record]:
    columns = [column.to_pylist() for column in batch.values.columns]
    for number, error, *fields in zip(batch.numbers, batch.errors, *columns, strict=True):
        yield Record(number, fields, error or "")


@contextlib.contextmanager
def _objects(path: str, location: str, kind: str) -> Iterator[tuple[str, Iterator[_Object]]]:
    """Whether lines or rows are counted, and the objects of a JSON file."""
    if kind == "json":
        with open_unpacked(path, location) as file:
            data = file.read()
        entries = _entries(data)
        if entries is not None:
            halves = b"\\" in data  # an escape, in any encoding
            yield "row", (_object(i, e, halves=halves) for i, e in enumerate(entries, start=1))
            return
    with open_lines(path, location) as text:
        yield "line", (_parsed(i, line) for i, line in enumerate(text, start=1) if line.strip())


def _entries(data: bytes) -> list[Any] | None:
    """The entries of a JSON document; None: it is no document, perhaps one object per line."""
    try:
        document = json.loads(data, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict):  # as COCO and other tools write it
        lists = [document.get(key) for key in ("images", "data", "rows", "items")]
        inner = [entry for entry in lists if isinstance(entry, list)]
        names = document.get("columns")
        if inner and isinstance(names, list) and all(isinstance(name, str) for name in names):
            # pandas' orient="split"
            return [dict(zip(names, row, strict=False)) for row in inner[0]]
        return inner[0] if inner else _of_columns(document)
    return document if isinstance(document, list) else None


def _of_columns(document: dict[str, Any]) -> list[Any] | None:
    """The rows of a document of columns, as pandas writes it by default; else None."""
    columns = list(document.values())
    if not any(plain_name(name) in URI_COLUMNS for name in document):
        return None
    if all(isinstance(column, dict) for column in columns):
        rows = dict.fromkeys(row for column in columns for row in column)
        return [{name: column.get(row) for name, column in document.items()} for row in rows]
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) == 1 and -1 not in lengths:
        return [dict(zip(document, row, strict=True)) for row in zip(*columns, strict=True)]
    return None


class _Number(str):
    """A number as it is written."""


def _parsed(line: int, text: str) -> _Object:
    if not is_utf8(text):
        return _Object(line, {}, "is not UTF-8")
    try:
        value = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
    except (ValueError, RecursionError) as error:
        return _Object(line, {}, f"is no JSON: {error}")
    return _object(line, value, halves="\\ud" in text.lower())


def _object(number: int, value: Any, *, halves: bool) -> _Object:
    """What an entry says. `halves`: its text may have escapes of half a character."""
    if halves and not is_utf8(json.dumps(value, ensure_ascii=False)):
        return _Object(number, {}, r"has half a character, as \ud800 is without a second one")
    if isinstance(value, dict):
        return _Object(number, value)
    if isinstance(value, str) and not isinstance(value, _Number):
        return _Object(number, {"uri": value}, is_bare=True)
    return _Object(number, {}, _NO_OBJECT)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, str) else _written(value)


def _written(value: Any) -> str:
    """A value as JSON, its numbers as they were written."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        inner = (f"{json.dumps(key)}: {_written(item)}" for key, item in value.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


# Parquet


@contextlib.contextmanager
def _open_parquet(path: str, location: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, ValueError, IndexError, KeyError) as error:
        raise InputError(
            f"{location}: cannot be read: {first_line(error)}; copy it again"
        ) from None


def _read_parquet(rows: ListOfRows, path: str) -> Iterator[ListRows]:
    first = 1
    with _open_parquet(path, rows.location) as parquet:
        for batch in parquet.iter_batches(CHUNK):
            columns = [
                as_type(column, kind)
                for column, kind in zip(batch.columns, rows.schema.types, strict=True)
            ]
            numbers = list(range(first, first + batch.num_rows))
            first += batch.num_rows
            values = pa.RecordBatch.from_arrays(columns, schema=rows.schema)
            yield ListRows(numbers, [None] * len(numbers), values)


# Columns of text


def _prove(rows: ListOfRows, records: Iterable[Record]) -> pa.Schema:
    """The types that the text of each column proves."""
    proofs = [TypeProof() for _ in rows.schema]
    for batch in _typed(rows, records):
        for proof, column in zip(proofs, batch.values.columns, strict=True):
            proof.add(column)
    return pa.schema(
        [proof.field(name) for name, proof in zip(rows.schema.names, proofs, strict=True)]
    )


def _typed(rows: ListOfRows, records: Iterable[Record]) -> Iterator[ListRows]:
    records = iter(records)
    width = len(rows.schema)
    while some := list(itertools.islice(records, CHUNK)):
        fields = [record.fields or [""] * width for record in some]
        columns = [
            from_text(pa.array([text or None for text in column], pa.string()), kind)
            for column, kind in zip(zip(*fields, strict=True), rows.schema.types, strict=True)
        ]
        yield ListRows(
            [record.line for record in some],
            [record.error or None for record in some],
            pa.RecordBatch.from_arrays(columns, schema=rows.schema),
        )


def _distinct(names: list[str]) -> list[str]:
    """Names without gaps and repetitions."""
    found: list[str] = []
    for index, name in enumerate(names):
        name = name or f"column{index}"
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found
