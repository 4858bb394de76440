"""The finished table, opened for questions: what report, evaluate, browse and similar read.

DuckDB scans the Parquet parts in bounded memory, however many rows there are. Parts in a bucket
are copied to a temporary folder first.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import glob
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb

from imagecensus.model_export.common.errors import TAKES_NOTHING, UserError, first_line
from imagecensus.model_export.common.sql import quote_name
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.dataset.parts import list_parts
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.copies import download

MEMORY_LIMIT = "512MB"
# Of more parts, whose readers take 41 KB of memory each, a copy is read: `imagecensus compact`
# makes few of many.
PARTS_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """An output folder of `classify`, open for reading.

    Attributes:
      output: the folder, as the user named it.
      connection: holds the view `predictions`, one row per image.
      parts: local paths of the Parquet files.
      columns: names of the view's columns.
    """

    output: str
    connection: duckdb.DuckDBPyConnection
    parts: tuple[str, ...]
    columns: tuple[str, ...]

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of an answer: for answers that are small."""
        return self.connection.execute(sql, list(parameters)).fetchall()


# Errors of DuckDB that no file causes.
_WRONG_STATEMENT = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.OutOfMemoryException,
    duckdb.ParserException,
    duckdb.SyntaxException,
)


@contextlib.contextmanager
def open_table(output: str) -> Iterator[Table]:
    """Opens the table of an output folder.

    Raises:
      UserError: there is no such folder, no part in it, or a part is damaged.
      OSError: there is no room for what does not fit into memory, or for what is exported.
    """
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as scratch:
        parts = _local_parts(output, scratch)
        many = len(parts) > PARTS_AT_ONCE
        database = os.path.join(scratch, "table") if many else ":memory:"
        connection = connect(os.path.join(scratch, "spill"), database)
        try:
            if many:
                _gather(connection, parts)
            else:
                _scan(connection, parts).create_view("predictions")
            yield Table(
                output=output,
                connection=connection,
                parts=tuple(parts),
                columns=tuple(connection.sql("FROM predictions").columns),
            )
        except _WRONG_STATEMENT:
            raise
        except duckdb.Error as error:  # of which class a damaged file is depends on the release
            for code in TAKES_NOTHING:  # the table's files are not written to
                if os.strerror(code) in str(error):
                    raise OSError(code, os.strerror(code)) from error
            raise UserError(
                f"{output}: the table cannot be read: {first_line(error)}; if a part is"
                " damaged, delete that file and run classify again: it redoes those rows only"
            ) from error
        finally:
            connection.close()


def _scan(connection: duckdb.DuckDBPyConnection, parts: list[str]) -> duckdb.DuckDBPyRelation:
    # glob.escape: a bracket in the folder's name is no pattern. By name: later versions and lists
    # may have added columns to the newer parts of one dataset.
    return connection.read_parquet([glob.escape(part) for part in parts], union_by_name=True)


def _gather(connection: duckdb.DuckDBPyConnection, parts: list[str]) -> None:
    """Makes the table `predictions` of many parts, in bounded memory: some at a time."""
    known: list[str] = []
    for at in range(0, len(parts), PARTS_AT_ONCE):
        some = _scan(connection, parts[at : at + PARTS_AT_ONCE])
        if not known:
            some.limit(0).create("predictions")
            known = list(some.columns)
        for name, kind in zip(some.columns, some.types, strict=True):
            if name not in known:
                quoted = quote_name(name)
                connection.execute(f"ALTER TABLE predictions ADD COLUMN {quoted} {kind}")
                known.append(name)
        some.create_view("piece", replace=True)
        connection.execute("INSERT INTO predictions BY NAME SELECT * FROM piece")


def connect(spill: str, database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A database of bounded size in memory that spills into the folder `spill`, or on disk."""
    return duckdb.connect(
        database,
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "preserve_insertion_order": "false",  # lets a scan stream
        },
    )


def read_bytes(output: str, name: str) -> bytes | None:
    """A file of the output folder; None where it does not exist. Raises UserError."""
    location = store.join(output, name)
    try:
        return store.read(location)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{location}: cannot be read: {error.strerror}") from None


def read_json(output: str, name: str) -> dict[str, Any]:
    """A JSON file of the output folder; {} where it does not exist.

    Raises:
      UserError: it cannot be read or holds no JSON object.
    """
    content = read_bytes(output, name)
    try:
        tree = {} if content is None else json.loads(content)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        location = store.join(output, name)
        raise UserError(f"{location}: is damaged; delete it and run classify again")
    return tree


def write_bytes(output: str, name: str, content: bytes) -> str:
    """Writes a file of the output folder, whole or not at all; returns where. Raises UserError."""
    location = store.join(output, name)
    store.make_folders(location.rpartition("/")[0])
    try:
        store.write(location, content)
    except OSError as error:
        raise UserError(f"{location}: cannot be written: {error.strerror}") from None
    return location


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _local_parts(output: str, scratch: str) -> list[str]:
    folder = Layout(output=output).parts
    try:
        parts = sorted(list_parts(folder).values())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror}") from None
    if parts:
        return _mirror(parts, scratch) if store.is_bucket(output) else parts
    if not store.is_bucket(output) and not os.path.isdir(output):
        raise UserError(f"{output}: no such folder; name the --output of a classify run")
    raise UserError(
        f"{output}: holds no predictions yet; run classify with this --output, and then this"
    )


def _mirror(parts: list[str], scratch: str) -> list[str]:
    """Copies parts out of a bucket, their times with them; returns the copies."""
    found = {part.uri: part for part in store.list_folder(os.path.dirname(parts[0]))}
    paths = [os.path.join(scratch, os.path.basename(part)) for part in parts]

    def fetch(part: str, path: str) -> None:
        if part not in found:
            raise UserError(f"{part}: cannot be read: it was removed; run the same command again")
        download(found[part], path)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fetch, parts, paths))
    return paths
