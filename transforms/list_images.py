"""What is to be classified: inputs as people give them, listed as a stream of references.

Stated rules for a folder: every regular file in it, at any depth, is listed in name order, but
for names that start with a dot and the litter of desktop systems (`archives.LITTER`). Links to
files are listed under their own name; links to folders are followed, each folder once, so that
loops end. Sockets, pipes and devices are not listed. A folder that cannot be read is listed itself:
its row says `permission_denied`. In the place of a packed archive its members are listed (see
`archives`).
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from collections.abc import Iterator

import pyarrow as pa

from model_export.errors import UserError
from model_export.redact import redact
from transforms import archives, storage
from transforms.archives import is_litter
from transforms.records import OUTPUT_COLUMNS, REF_COLUMNS, REF_SCHEMA

CHUNK = 8192
MANIFEST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_MANIFEST_READERS = {
    ".csv": "read_csv(?, header=true, sample_size=-1)",
    ".tsv": "read_csv(?, header=true, sample_size=-1, delim='\t')",
    ".jsonl": "read_json_auto(?, format='newline_delimited')",
    ".ndjson": "read_json_auto(?, format='newline_delimited')",
    ".parquet": "read_parquet(?)",
}
URI_COLUMNS = ("uri", "path", "file", "filename", "file_name", "image", "image_path", "url")
_PICTURES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")  # not looked into, for speed
_GLOB_CHARACTERS = re.compile(r"[*?\[]")


class InputError(UserError):
    """An input cannot be listed. The message names it and the remedy."""


def list_images(
    inputs: tuple[str, ...], uri_column: str = "", image_column: str = ""
) -> Iterator[pa.RecordBatch]:
    """Lists all inputs in turn.

    Args:
      inputs: folders, files, globs, archives, manifests, gs:// prefixes and globs.
      uri_column: the manifests' column of locations; empty: the first of `URI_COLUMNS`.
      image_column: the column or feature of pictures in Parquet and TFRecords; empty: the usual.

    Yields:
      batches of at most `CHUNK` references: `REF_SCHEMA`, then a manifest's or table's columns.

    Raises:
      InputError: an input does not exist or a manifest cannot be read.
    """
    for text in inputs:
        if is_manifest(text) and not _holds_pictures(text, uri_column, image_column):
            yield from list_manifest(text, uri_column)
        else:
            yield from _list_files(text, image_column)


def is_manifest(text: str) -> bool:
    """Whether an input's name is a manifest's; a Parquet file may hold pictures nevertheless."""
    return text.lower().endswith(MANIFEST_SUFFIXES) and not _GLOB_CHARACTERS.search(text)


def _holds_pictures(text: str, uri_column: str, image_column: str) -> bool:
    """Whether a Parquet file is an archive of pictures and no manifest of locations."""
    if not text.lower().endswith(".parquet") or (uri_column and not image_column):
        return False
    reference = next(_references(text), ("", -1, ""))
    return archives.is_table_of_pictures(*reference, image_column)


def _references(text: str) -> Iterator[tuple[str, int, str]]:
    return list_bucket(text) if storage.is_bucket(text) else list_local(text)


def _list_files(text: str, image_column: str) -> Iterator[pa.RecordBatch]:
    """The files of one input, and in the place of an archive its members."""
    named = text if storage.is_bucket(text) else storage.uri_of_path(_absolute(text))
    columns = _table_columns(text, image_column)
    names = {f.name: new.name for f, new in zip(columns, _passed_through(columns), strict=True)}
    chunk = []
    for reference in _references(text):
        uri = reference[0]
        if not uri.endswith(_PICTURES) and (archives.is_archive_name(uri) or uri == named):
            kind = archives.archive_kind(*reference, image_column)
            if kind:
                if chunk:
                    yield _columns(chunk)
                    chunk = []
                members = archives.list_archive(*reference, kind, image_column, columns)
                for batch in members:
                    yield batch.rename_columns([names.get(n, n) for n in batch.schema.names])
                continue
        chunk.append(reference)
        if len(chunk) == CHUNK:
            yield _columns(chunk)
            chunk = []
    if chunk:
        yield _columns(chunk)


def _table_columns(text: str, image_column: str) -> pa.Schema:
    """The columns of the first table of pictures, where an input's name says it is one."""
    for reference in _references(text) if archives.has_columns(text) else ():
        if archives.is_archive_name(reference[0]):
            return archives.column_schema(*reference, image_column)
    return pa.schema([])


def check_inputs(inputs: tuple[str, ...]) -> list[str]:
    """What is wrong with the inputs, as sentences, without listing them."""
    problems = []
    for text in inputs:
        if storage.is_bucket(text):
            continue
        path = os.path.abspath(text)
        if not os.path.lexists(path) and not _GLOB_CHARACTERS.search(text):
            problems.append(f"{text}: no such file or folder")
    return problems


def list_local(text: str) -> Iterator[tuple[str, int, str]]:
    """References of a folder (recursive), a file, or a glob: (uri, size, mtime in ns)."""
    path = _absolute(text)
    if os.path.lexists(path):
        paths = [path]
    elif _GLOB_CHARACTERS.search(text):
        paths = sorted(glob.iglob(path, recursive=True))
        if not paths:
            raise InputError(f"{text}: nothing matches; quote the pattern and check it")
    else:
        raise InputError(f"{text}: no such file or folder")
    visited: set[tuple[int, int]] = set()
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, visited)
        else:
            reference = _reference(path)
            if reference:
                yield reference


def _absolute(text: str) -> bytes:
    return os.fsencode(os.path.abspath(text))


def _walk(top: bytes, visited: set[tuple[int, int]]) -> Iterator[tuple[str, int, str]]:
    """Depth first, in name order; no recursion, as folders nest deeper than Python's stack."""
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            info = os.stat(path)
        except OSError:
            yield (storage.uri_of_path(path), -1, "")
            continue
        if not stat.S_ISDIR(info.st_mode):
            reference = _reference(path)
            if reference:
                yield reference
            continue
        if (info.st_dev, info.st_ino) in visited:
            continue
        visited.add((info.st_dev, info.st_ino))
        try:
            with os.scandir(path) as entries:
                names = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError:
            yield (storage.uri_of_path(path), -1, "")
            continue
        # Files at once; folders go on the stack, last first, so that they come in name order.
        for name, is_folder in names:
            if not is_folder and not is_litter(name):
                reference = _reference(os.path.join(path, name))
                if reference:
                    yield reference
        pending.extend(
            os.path.join(path, name)
            for name, is_folder in reversed(names)
            if is_folder and not is_litter(name)
        )


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _reference(path: bytes) -> tuple[str, int, str] | None:
    try:
        info = os.stat(path)
    except (OSError, ValueError):  # a broken link or a loop of links: its row will say so
        return (storage.uri_of_path(path), -1, "")
    if not stat.S_ISREG(info.st_mode):
        return None
    return (storage.uri_of_path(path), info.st_size, str(info.st_mtime_ns))


def list_bucket(text: str) -> Iterator[tuple[str, int, str]]:
    """References of a gs:// prefix, object or glob: (uri, size, generation), one page at a time."""
    bucket, pattern = storage.split_bucket(text)
    magic = _GLOB_CHARACTERS.search(pattern)
    prefix = pattern[: magic.start()] if magic else pattern
    matches = re.compile(_translate(pattern)).fullmatch if magic else None
    found = 0
    blobs = storage.bucket_client().list_blobs(
        bucket, prefix=prefix, fields="items(name,size,generation),nextPageToken"
    )
    for blob in blobs:
        if matches:
            if not matches(blob.name):
                continue
        elif not _under(blob.name, prefix):
            continue
        base = blob.name.rsplit("/", 1)[-1]
        if not base or is_litter(base.encode()):
            continue
        found += 1
        yield (f"gs://{bucket}/{blob.name}", blob.size, str(blob.generation))
    if not found:
        raise InputError(f"{text}: no objects there; check the prefix")


def _under(name: str, prefix: str) -> bool:
    """Whether an object is the prefix itself or lies in the folder of that name."""
    return not prefix or prefix.endswith("/") or name == prefix or name.startswith(prefix + "/")


def _translate(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stop at slashes, `**` does not."""
    out = ""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    for part in parts:
        if part == "**/":
            out += "(?:.*/)?"
        elif part == "**":
            out += ".*"
        elif part == "*":
            out += "[^/]*"
        elif part == "?":
            out += "[^/]"
        elif part.startswith("[") and part.endswith("]"):
            out += "[" + part[1:-1].replace("!", "^", 1) + "]"
        else:
            out += re.escape(part)
    return out


def passthrough_columns(
    inputs: tuple[str, ...], uri_column: str = "", image_column: str = ""
) -> pa.Schema:
    """The columns that manifests and tables among the inputs pass through to the output, together.

    Raises:
      InputError: two inputs give one column different types.
    """
    fields: dict[str, pa.Field] = {}
    for text in inputs:
        for field in _columns_of(text, uri_column, image_column):
            known = fields.setdefault(field.name, field)
            if known.type != field.type:
                raise InputError(
                    f"{text}: column {field.name!r} is {field.type}, in an earlier manifest"
                    f" {known.type}; rename one of them"
                )
    return pa.schema(list(fields.values()))


def _columns_of(text: str, uri_column: str, image_column: str) -> list[pa.Field]:
    if not is_manifest(text) or _holds_pictures(text, uri_column, image_column):
        return _passed_through(_table_columns(text, image_column))
    if text.lower().endswith(".txt"):
        return []
    with _manifest_rows(text) as rows:
        column = _uri_column(text, rows.schema.names, uri_column)
        return _passed_through(rows.schema, column)


def list_manifest(location: str, uri_column: str = "") -> Iterator[pa.RecordBatch]:
    """References of a manifest; its other columns follow them, so that they reach the output.

    txt: one location per line. CSV, TSV, JSON Lines, Parquet: a column of locations. Relative
    locations are taken from the manifest's folder. A column that has the name of an output column
    gets the prefix `manifest_`.
    """
    base = location.rsplit("/", 1)[0] if storage.is_bucket(location) else os.path.dirname(location)
    if location.lower().endswith(".txt"):
        with storage.local_copy(location) as path:
            yield from _batches(_list_lines(path, base))
        return
    with _manifest_rows(location) as rows:
        column = _uri_column(location, rows.schema.names, uri_column)
        passed = _passed_through(rows.schema, column)
        for batch in rows:
            locations = batch.column(column).cast(pa.string())
            if locations.null_count:
                raise InputError(f"{location}: {locations.null_count} rows have no {column!r}")
            refs = _columns([_located(text, base) for text in locations.to_pylist()])
            values = [batch.column(name) for name in batch.schema.names if name != column]
            yield pa.RecordBatch.from_arrays(
                [*refs.columns, *values], schema=pa.schema([*REF_SCHEMA, *passed])
            )


@contextlib.contextmanager
def _manifest_rows(location: str):
    """A stream of Arrow batches of a manifest's rows, read by DuckDB."""
    import duckdb

    reader = _MANIFEST_READERS[os.path.splitext(location.lower())[1]]
    try:
        with storage.local_copy(location) as path, duckdb.connect() as connection:
            relation = connection.sql(f"SELECT * FROM {reader}", params=[path])
            yield relation.to_arrow_reader(CHUNK)
    except duckdb.Error as error:
        raise InputError(f"{location}: cannot be read: {str(error).splitlines()[0]}") from None
    except FileNotFoundError:
        raise InputError(f"{location}: no such manifest") from None


def _passed_through(schema: pa.Schema, uri_column: str = "") -> list[pa.Field]:
    fields = []
    for field in schema:
        if not uri_column or field.name != uri_column:
            taken = field.name in OUTPUT_COLUMNS or field.name in REF_COLUMNS
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


def _list_lines(path: str, base: str) -> Iterator[tuple[str, int, str]]:
    with open(path, "rb") as file:
        for line in file:
            line = line.rstrip(b"\r\n")
            if line.strip():
                yield _located(os.fsdecode(line), base)


def _located(location: str, base: str) -> tuple[str, int, str]:
    """The reference of one manifest entry. What is not there is listed: its row will say so."""
    if storage.is_bucket(location):
        return (location, -1, "")
    if location.startswith(storage.WEB):  # its row says that it is not read; no query, no secret
        return (redact(location).removesuffix("?[redacted]"), -1, "")
    if location.startswith("file://"):
        path = storage.path_of_uri(location)
    elif storage.is_bucket(base) and not location.startswith("/"):
        return (storage.join(base, location), -1, "")
    else:
        path = os.path.abspath(os.fsencode(os.path.join(base, location)))
    return _reference(path) or (storage.uri_of_path(path), -1, "")


def _batches(references: Iterator[tuple[str, int, str]]) -> Iterator[pa.RecordBatch]:
    chunk = []
    for reference in references:
        chunk.append(reference)
        if len(chunk) == CHUNK:
            yield _columns(chunk)
            chunk = []
    if chunk:
        yield _columns(chunk)


def _columns(references: list[tuple[str, int, str]]) -> pa.RecordBatch:
    uris, sizes, etags = zip(*references, strict=True) if references else ((), (), ())
    nothing = pa.nulls(len(uris), pa.string())
    return pa.RecordBatch.from_arrays(
        [
            pa.array(uris, pa.string()),
            pa.array(sizes, pa.int64()),
            pa.array(etags, pa.string()),
            nothing,
            nothing,
        ],
        schema=REF_SCHEMA,
    )
