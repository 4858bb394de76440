"""Manifests: text files and tables that name images, and tell more about them."""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
import json
import os
import re
from collections.abc import Iterator

import pyarrow as pa

from imagecensus.model_export.common.redact import redact, redact_address
from imagecensus.transforms.inputs.files import (
    CHUNK,
    File,
    InputError,
    is_glob,
    reference_batch,
    reference_of,
)
from imagecensus.transforms.records import OUTPUT_COLUMNS, REF_COLUMNS, REF_SCHEMA
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web import policy
from imagecensus.transforms.storage.web.iiif import sized

MANIFEST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_MANIFEST_READERS = {
    ".csv": "read_csv(?, header=true, sample_size=-1)",
    ".tsv": "read_csv(?, header=true, sample_size=-1, delim='\t')",
    ".jsonl": "read_json_auto(?, format='newline_delimited')",
    ".ndjson": "read_json_auto(?, format='newline_delimited')",
    ".parquet": "read_parquet(?)",
}
_DELIMITERS = (",", ";", "\t", "|")
_SECRET = re.compile(r"\?|//[^/@]*:[^/@]*@")  # abfs://container@account is none
_HEAD = 4096
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
URI_COLUMNS = ("uri", "path", "file", "filename", "file_name", "image", "image_path", "url")


def is_manifest(text: str) -> bool:
    """Whether an input's name is a manifest's; a Parquet file may hold images nevertheless."""
    return _path_of(text).lower().endswith(MANIFEST_SUFFIXES) and not is_glob(text)


def _path_of(location: str) -> str:
    """A location without the query of a web address."""
    return location.partition("?")[0] if store.is_web(location) else location


def list_manifest(location: str, uri_column: str = "") -> Iterator[pa.RecordBatch]:
    """References of a manifest; its other columns follow them, so that they reach the output.

    txt: one location per line. CSV, TSV, JSON Lines, Parquet: a column of locations. Relative
    locations are taken from the manifest's folder. A column that has the name of an output column
    gets the prefix `manifest_`.
    """
    base = os.path.dirname(_path_of(location))
    if _path_of(location).lower().endswith(".txt"):
        with store.local_copy(location) as path:
            lines = _list_lines(path, base)
            while chunk := list(itertools.islice(lines, CHUNK)):
                yield reference_batch(chunk)
        return
    with _rows(location) as rows:
        column = _uri_column(location, rows.schema.names, uri_column)
        passed = passed_through(rows.schema, column)
        first = 1
        for batch in rows:
            texts = batch.column(column).cast(pa.string()).to_pylist()
            files = [_located(text, base) if text else None for text in texts]
            refs = _with_failures(location, files, first)
            first += len(files)
            values = [batch.column(name) for name in batch.schema.names if name != column]
            yield pa.RecordBatch.from_arrays(
                [*refs.columns, *values], schema=pa.schema([*REF_SCHEMA, *passed])
            )


def _with_failures(location: str, files: list[File | None], first: int) -> pa.RecordBatch:
    """References of a list's rows; a row that names nothing is a failed one, by its number."""
    refs = reference_batch(
        [file or (f"{location}#row={first + i}", -1, "") for i, file in enumerate(files)]
    )
    if None not in files:
        return refs
    members = [
        None
        if file
        else json.dumps(["failed", "not_found", f"row {first + i} of the list names no image"])
        for i, file in enumerate(files)
    ]
    containers = [None if member is None else location for member in members]
    columns = dict(zip(refs.schema.names, refs.columns, strict=True))
    columns |= {"container": pa.array(containers, pa.string())}
    columns |= {"member": pa.array(members, pa.string())}
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=refs.schema)


def check_header(location: str, path: str, names: list[str]) -> None:
    """Refuses CSV whose reader took a later line for the header: the rows above would be lost.

    Args:
      location: as people named the file.
      path: a local copy of it.
      names: the columns that the reader found.

    Raises:
      InputError: the first line does not hold these names.
    """
    if not _path_of(location).lower().endswith((".csv", ".tsv")):
        return
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        line = next((line for line in file if line.strip()), "")
    if line.count('"') % 2:  # a name of several lines
        return
    for delimiter in _DELIMITERS:
        fields = next(csv.reader([line.strip("\r\n")], delimiter=delimiter))
        if len(fields) == len(names) and fields[0].strip() in ("", names[0].strip()):
            return
    raise InputError(
        f"{location}: its rows do not fit its first line, {line.strip()[:80]!r}: further down they"
        f" have the columns {', '.join(names)[:80]}; give each row as many fields as the first line"
    )


@contextlib.contextmanager
def _rows(location: str):
    """A stream of Arrow batches of a manifest's rows, read by DuckDB."""
    import duckdb

    reader = _MANIFEST_READERS[os.path.splitext(_path_of(location).lower())[1]]
    try:
        with store.local_copy(location) as path, duckdb.connect() as connection:
            relation = connection.sql(f"SELECT * FROM {reader}", params=[path])
            check_header(location, path, relation.columns)
            yield relation.to_arrow_reader(CHUNK)
    except duckdb.Error as error:
        raise InputError(f"{location}: cannot be read: {str(error).splitlines()[0]}") from None
    except FileNotFoundError:
        raise InputError(f"{location}: no such manifest") from None
    except OSError as error:
        raise InputError(f"{location}: cannot be read: {error.strerror}") from None


def manifest_columns(location: str, uri_column: str = "") -> list[pa.Field]:
    """The columns that a manifest passes through to the output. Raises InputError."""
    if _path_of(location).lower().endswith(".txt"):
        return []
    with _rows(location) as rows:
        column = _uri_column(location, rows.schema.names, uri_column)
        return passed_through(rows.schema, column)


def passed_through(schema: pa.Schema, uri_column: str = "") -> list[pa.Field]:
    """The fields of a schema but the column of locations, under names that are free."""
    fields = []
    for field in schema:
        if not uri_column or field.name != uri_column:
            # Engines of SQL compare names without case.
            taken = field.name.casefold() in (*OUTPUT_COLUMNS, *REF_COLUMNS)
            fields.append(field.with_name("manifest_" + field.name) if taken else field)
    return fields


def _uri_column(location: str, names: list[str], wanted: str) -> str:
    if wanted:
        if wanted in names:
            return wanted
        raise InputError(f"{location}: has no column {wanted!r}; it has {', '.join(names)}")
    for candidate in URI_COLUMNS:
        for name in names:
            if name.lower() == candidate:
                return name
    raise InputError(
        f"{location}: no column of locations among {', '.join(names)}; name it with --uri-column"
    )


def _list_lines(path: str, base: str) -> Iterator[File]:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    marks = [name for mark, name in _MARKS if head.startswith(mark)]
    if not marks and b"\0" in head:
        raise InputError(
            f"{path}: holds NUL bytes and no mark of its encoding, so it is no list with one"
            " location per line; save it as UTF-8, with line ends"
        )
    # Names on disk need not be UTF-8: what is not stays the bytes that it is.
    errors = "strict" if marks else "surrogateescape"
    with open(path, encoding=(*marks, "utf-8")[0], errors=errors, newline="\n") as lines:
        try:
            for line in lines:
                line = line.rstrip("\r\n")
                if line.strip():
                    yield _located(line, base)
        except UnicodeError as error:
            raise InputError(
                f"{path}: is not the {marks[0]} that its first bytes say: {error}; save it as UTF-8"
            ) from None


def _located(location: str, base: str) -> File:
    """The reference of one manifest entry. What is not there is listed: its row will say so."""
    if store.is_bucket(location):
        # Names in buckets are UTF-8; what is not stays visible in the row that finds nothing.
        return (location.encode(errors="replace").decode(), -1, "")
    if store.is_web(location):  # one with a secret in it: its row says that it is not read
        location = location.encode(errors="replace").decode()
        return (sized(redact_address(location), policy.current().image_side), -1, "")
    if location.startswith("file://"):
        path = store.path_of_uri("file://" + location[7:].removeprefix("localhost"))
    elif store.is_address(location):  # of a store that is not read: its row says so
        location = location.encode(errors="replace").decode()
        return (redact(location) if _SECRET.search(location) else location, -1, "")
    elif store.is_web(base) or (store.is_bucket(base) and not location.startswith("/")):
        return (store.resolve(base, location), -1, "")
    else:
        path = os.path.abspath(os.fsencode(os.path.join(base, location)))
    return reference_of(path) or (store.uri_of_path(path), -1, "")
