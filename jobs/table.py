"""The finished table, opened for questions: what report, evaluate, browse and similar read.

DuckDB scans the Parquet parts in bounded memory, however many rows there are. Parts in a bucket
are copied to a temporary folder first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import tempfile
from collections.abc import Iterator

import duckdb

from model_export.errors import UserError

MEMORY_LIMIT = "1GB"


@dataclasses.dataclass(frozen=True)
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

    def query(self, sql: str, *parameters) -> list[tuple]:
        """All rows of an answer: for answers that are small."""
        return self.connection.execute(sql, list(parameters)).fetchall()


@contextlib.contextmanager
def open_table(output: str) -> Iterator[Table]:
    """Opens the table of an output folder.

    Raises:
      UserError: there is no such folder, no part in it, or a part is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as scratch:
        parts = _local_parts(output, scratch)
        connection = connect(os.path.join(scratch, "spill"))
        try:
            # glob.escape: a bracket in the folder's name is no pattern. By name: later versions
            # may have added columns to the newer parts of one dataset.
            relation = connection.read_parquet(
                [glob.escape(part) for part in parts], union_by_name=True
            )
            relation.create_view("predictions")
            yield Table(output, connection, tuple(parts), tuple(relation.columns))
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise UserError(
                f"{output}: the table cannot be read: {str(error).splitlines()[0]}; if a part is"
                " damaged, delete that file and run classify again: it redoes those rows only"
            ) from error
        finally:
            connection.close()


def connect(spill: str) -> duckdb.DuckDBPyConnection:
    """An in-memory database of bounded size that spills into the folder `spill`."""
    return duckdb.connect(
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "preserve_insertion_order": "false",  # lets a scan stream
        }
    )


def read_bytes(output: str, name: str) -> bytes | None:
    """A file of the output folder; None where it does not exist. Raises UserError."""
    path = os.path.join(output, name)
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def read_json(output: str, name: str) -> dict:
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
        raise UserError(f"{output}/{name}: is damaged; delete it and run classify again")
    return tree


def write_bytes(output: str, name: str, content: bytes) -> str:
    """Writes a file of the output folder, whole or not at all; returns its path."""
    path = os.path.join(output, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        file.write(content)
    os.replace(partial, path)
    return path


def _local_parts(output: str, scratch: str) -> list[str]:
    if not os.path.isdir(output):
        raise UserError(f"{output}: no such folder; name the --output of a classify run")
    parts = sorted(glob.glob(os.path.join(glob.escape(output), "predictions", "*.parquet")))
    if not parts:
        raise UserError(
            f"{output}: holds no predictions yet (no Parquet file in its folder predictions);"
            " run classify with this --output first"
        )
    return parts
