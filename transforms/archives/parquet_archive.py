"""Parquet files with a column of images: plain binary, or Hugging Face's struct<bytes, path>."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.members import ArchiveBroken, Member, Stream

IMAGE_COLUMNS = (
    "image", "images", "img", "image_bytes", "picture", "photo", "bytes", "content", "data",
    "jpg", "jpeg", "png", "webp",
)  # fmt: skip
_READ_ROWS = 8  # held decoded at a time, of rows that may each be some megabytes
# What reading damaged Parquet raises: of Arrow, and of its Python layer for counts that lie.
_DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError, KeyError, OverflowError)
_PASSED = (
    pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string,
    pa.types.is_large_string, pa.types.is_temporal, pa.types.is_decimal,
)  # fmt: skip


def open_parquet(file: Stream) -> pq.ParquetFile:
    """Raises ArchiveBroken."""
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except _DAMAGE as error:
        first = _first_line(error)
        raise ArchiveBroken("truncated", f"no readable Parquet footer: {first}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def image_column(schema: pa.Schema, wanted: str = "") -> str | None:
    """The column that holds images; None: there is none, or not the wanted one."""
    by_name = {field.name.lower(): field.name for field in reversed(schema)}
    names = [wanted] if wanted in schema.names else []
    if not wanted:
        names = [by_name[name] for name in IMAGE_COLUMNS if name in by_name]
    return next((name for name in names if holds_bytes(schema.field(name).type)), None)


def holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "bytes" in names and holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def column_schema(schema: pa.Schema) -> pa.Schema:
    """The columns that go along: numbers, text, dates; not nested ones, not other binaries."""
    return pa.schema([f for f in schema if any(is_passed(f.type) for is_passed in _PASSED)])


def list_members(
    parquet: pq.ParquetFile, wanted: str, columns: pa.Schema
) -> Iterator[tuple[list[Member], pa.RecordBatch]]:
    """All rows, named by their number, with the columns that are to go along with them.

    `Member.where` is ("parquet", row group, row in it, column). The images are not read.

    Raises:
      ArchiveBroken: no column of images, or damaged; after the rows that could be found.
    """
    column = image_column(parquet.schema_arrow, wanted)
    if column is None:
        others = ", ".join(parquet.schema_arrow.names)
        text = f"no column of images among {others}; name it with --image-column"
        raise ArchiveBroken("read_error", text)
    names = [name for name in columns.names if name in parquet.schema_arrow.names]
    number = 0
    for group in range(parquet.num_row_groups):
        for values in _values(parquet, group, names):
            members = [
                Member(str(number + i), -1, ("parquet", group, values.first + i, column))
                for i in range(values.rows.num_rows)
            ]
            yield members, values.rows
            number += len(members)


class _Values(NamedTuple):
    first: int  # row of the group
    rows: pa.RecordBatch


def _values(parquet: pq.ParquetFile, group: int, names: list[str]) -> Iterator[_Values]:
    """The named columns of a row group, in batches; without columns, rows of nothing."""
    total = parquet.metadata.row_group(group).num_rows
    first = 0
    try:
        if names:
            for rows in parquet.iter_batches(4096, row_groups=[group], columns=names):
                yield _Values(first, rows)
                first += rows.num_rows
            return
        while first < total:
            count = min(4096, total - first)
            nothing = pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
            yield _Values(first, nothing)
            first += count
    except _DAMAGE as error:
        raise ArchiveBroken("read_error", _first_line(error)) from None


class ImageRows:
    """The images of one row group, read front to back in bounded memory."""

    def __init__(self, file: Stream, group: int, column: str) -> None:
        parquet = open_parquet(file)
        leaf = column
        if pa.types.is_struct(parquet.schema_arrow.field(column).type):
            leaf = f"{column}.bytes"
        self._batches = parquet.iter_batches(_READ_ROWS, row_groups=[group], columns=[leaf])
        self._column = column
        self._first, self._rows = 0, pa.array([], pa.binary())
        self._broken: tuple[str, str] | None = None

    @property
    def at(self) -> int:
        """The first row that can still be read."""
        return self._first

    def read(self, row: int, max_bytes: int) -> bytes:
        """The image in a row of the group, `at` or later.

        Raises:
          ImageError: `not_found`, `too_large`, `read_error` or `truncated`.
        """
        if self._broken:  # what lies behind a damage is not looked for again
            raise ImageError(*self._broken)
        while row >= self._first + len(self._rows):
            first = self._first + len(self._rows)
            try:
                rows = next(self._batches).column(self._column)
            except _DAMAGE as error:
                self._broken = ("read_error", _first_line(error))
                raise ImageError(*self._broken) from None
            except StopIteration:
                self._broken = ("truncated", "the row group ends before the row")
                raise ImageError(*self._broken) from None
            if pa.types.is_struct(rows.type):
                rows = pc.struct_field(rows, "bytes")
            self._first, self._rows = first, rows
        value = self._rows[row - self._first]
        if not value.is_valid:
            raise ImageError("not_found", "the row holds no bytes")
        buffer = value.as_buffer()
        if buffer.size > max_bytes:
            raise ImageError(
                "too_large",
                f"{buffer.size:,} bytes, limit {max_bytes:,} (raise it with --max-bytes)",
            )
        image: bytes = buffer.to_pybytes()
        return image
