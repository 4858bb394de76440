"""Arrow tables of any number and size, put into the order of a column out of core."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

import pyarrow as pa

from imagecensus.model_export.common.sql import quote_name

MEMORY_LIMIT = "256MB"
THREADS = 4  # at most: each of them needs its share of the memory


class SortedRows:
    """Rows that are gathered in a database on disk. Used as a context manager.

    Columns may be added from table to table: rows before have nulls there.
    """

    def __init__(self, key: str):
        self._key = key
        self._fields: dict[str, pa.Field] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SortedRows:
        import duckdb

        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="imagecensus-"))
        self._db = duckdb.connect(
            os.path.join(scratch, "rows"),
            config={
                "memory_limit": MEMORY_LIMIT,
                "threads": min(THREADS, os.cpu_count() or 1),
                "temp_directory": os.path.join(scratch, "spill"),
            },
        )
        self._stack.callback(self._db.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(list(self._fields.values()))

    def add(self, rows: pa.Table) -> None:
        """Takes rows. Their metadata is not kept."""
        self._db.register("batch", rows)
        if not self._fields:
            self._db.execute("CREATE TABLE gathered AS FROM batch LIMIT 0")
        new = [field for field in rows.schema if field.name not in self._fields]
        if self._fields and new:
            for name, kind, *_ in self._db.execute("DESCRIBE batch").fetchall():
                if name not in self._fields:
                    self._db.execute(f"ALTER TABLE gathered ADD COLUMN {quote_name(name)} {kind}")
        self._fields |= {field.name: field for field in new}
        self._db.execute("INSERT INTO gathered BY NAME SELECT * FROM batch")
        self._db.unregister("batch")

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """All rows in order, so many in each table but the last one, as they were typed."""
        ordered = self._db.sql(f"SELECT * FROM gathered ORDER BY {quote_name(self._key)}")
        waiting: list[pa.Table] = []
        count = 0
        for batch in ordered.to_arrow_reader(min(rows, 1 << 14)):
            waiting.append(self._typed(batch))
            count += batch.num_rows
            while count >= rows:
                table = pa.concat_tables(waiting)
                yield table.slice(0, rows)
                waiting, count = [table.slice(rows)], count - rows
        if count:
            yield pa.concat_tables(waiting)

    def _typed(self, batch: pa.RecordBatch) -> pa.Table:
        columns = []
        for field in self._fields.values():
            column = batch.column(field.name)
            if pa.types.is_dictionary(field.type):
                column = column.cast(field.type.value_type).dictionary_encode()
            columns.append(column.cast(field.type))
        return pa.Table.from_arrays(columns, schema=self.schema).unify_dictionaries()
