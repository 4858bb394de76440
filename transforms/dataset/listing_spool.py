"""A listing while it is compared: on disk, in batches that can be read one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

# A letter for each passthrough column, in the column `given` of each row: the image's list has it,
# has it not, or it is found out here.
GIVEN, NOT_GIVEN, FOUND = "102"


class ListingSpool:
    """Rows in the order in which they were added; row n is in batch n // `size`."""

    def __init__(self, path: str, schema: pa.Schema, size: int) -> None:
        """Args:
        path: of a file that is written.
        schema: of the rows.
        size: rows of each batch, but for the last one.
        """
        self._path, self._size = path, size
        self._waiting = schema.empty_table()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(path, schema, options=options)

    def add(self, rows: pa.Table) -> list[pa.Table]:
        """Takes rows; returns the batches that were written."""
        self._waiting = pa.concat_tables([self._waiting, rows])
        written = []
        while self._waiting.num_rows >= self._size:
            written.append(self._write(self._size))
        return written

    def close(self) -> list[pa.Table]:
        """Writes what waits, and returns it; from then on batches can be read."""
        written = [self._write(self._waiting.num_rows)] if self._waiting.num_rows else []
        self._writer.close()
        return written

    def _write(self, rows: int) -> pa.Table:
        batch = self._waiting.slice(0, rows).combine_chunks()
        self._waiting = self._waiting.slice(rows)
        self._writer.write_table(batch)
        return batch

    def batches(self) -> Iterator[tuple[int, int]]:
        """(number, first row) of each batch."""
        with pa.memory_map(self._path) as file:
            count = pa.ipc.open_file(file).num_record_batches
        for number in range(count):
            yield number, number * self._size

    def read(self, number: int) -> pa.RecordBatch:
        with pa.memory_map(self._path) as file:
            return pa.ipc.open_file(file).get_batch(number)
