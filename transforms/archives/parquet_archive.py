"""Parquet files with a column of images, of any type that can hold bytes.

Plain, large, view or fixed-size binary, lists of 8-bit integers, a dictionary of them, Hugging
Face's struct<bytes, path>, a field of a struct, lists and values of maps of any of these: an image
each.
`--image-column` names a field of a struct with a dot.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imagecensus.model_export.common.errors import first_line
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.members import ArchiveBroken, Member, Stream

IMAGE_COLUMNS = (
    "image", "images", "img", "image_bytes", "picture", "photo", "bytes", "content", "data",
    "jpg", "jpeg", "png", "webp",
)  # fmt: skip
_READ_ROWS = 8  # held decoded at a time, of rows that may each be some megabytes
# What reading damaged Parquet raises: of Arrow, and of its Python layer for counts that lie.
_DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError, KeyError, OverflowError)
_BYTES = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)  # fmt: skip
_LISTS = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
    pa.types.is_large_list_view, pa.types.is_map,
)  # fmt: skip
_SHOWN_PATH = 200  # characters of a path in an error
_ANY = ("Image", "Value", "")  # features that may be images
_LOCATIONS = ("uri", "path", "file", "filename", "file_name", "image_path", "url")
_PASSED = (
    pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string,
    pa.types.is_large_string, pa.types.is_string_view, pa.types.is_temporal, pa.types.is_decimal,
)  # fmt: skip


def open_parquet(file: Stream) -> pq.ParquetFile:
    """Raises ArchiveBroken."""
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except _DAMAGE as error:
        first = first_line(error)
        raise ArchiveBroken("truncated", f"no readable Parquet footer: {first}") from None


def image_column(schema: pa.Schema, wanted: str = "") -> str | None:
    """The column that holds images; None: there is none, or not the wanted one.

    That is the wanted one; else what Hugging Face's metadata says is images; else the first of the
    usual names; else, where no column names locations, the only column that can hold bytes.
    """
    if wanted:
        kind = _type_of(schema, wanted)
        return wanted if kind is not None and holds_bytes(kind) else None
    features = _hugging_face(schema)
    able: list[str] = [
        f.name for f in schema if holds_bytes(f.type) and features.get(f.name, "Image") in _ANY
    ]
    said = [name for name in able if features.get(name) == "Image"]
    by_name = {name.lower(): name for name in reversed(said or able)}
    usual = [by_name[name] for name in IMAGE_COLUMNS if name in by_name]
    if usual or said:
        return (usual or said)[0]
    names_files = any(name.casefold() in _LOCATIONS for name in schema.names)
    return able[0] if len(able) == 1 and not names_files else None


def _hugging_face(schema: pa.Schema) -> dict[str, str]:
    """What kind of feature each column is, where Hugging Face's datasets wrote the file."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said.get("info", {}).get("features", {})
        return {name: _feature(feature) for name, feature in features.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _feature(feature: Any) -> str:
    """`Image` for that, and for lists of it."""
    while isinstance(feature, (list, dict)):
        if isinstance(feature, list):
            feature = feature[0] if feature else ""
        elif feature.get("_type") in ("Sequence", "List", "LargeList"):
            feature = feature.get("feature", "")
        else:
            kind, inner = str(feature.get("_type", "")), str(feature.get("dtype", ""))
            return "Value" if kind == "Value" and "binary" in inner else kind
    return ""


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a value of the type has, or is, bytes."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_bytes(kind.storage_type)
    if _is_octets(kind):
        return True
    if pa.types.is_map(kind):  # a list of keys and values
        return holds_bytes(kind.item_type) and not holds_bytes(kind.key_type)
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return _bytes_field(kind) is not None
    return any(is_bytes(kind) for is_bytes in _BYTES)


def _is_list(kind: pa.DataType) -> bool:
    return any(is_list(kind) for is_list in _LISTS)


def _is_octets(kind: pa.DataType) -> bool:
    """Whether a value is bytes written as a list of numbers."""
    octets = (pa.uint8(), pa.int8())
    return _is_list(kind) and not pa.types.is_map(kind) and kind.value_type in octets


def _bytes_field(kind: pa.StructType) -> str | None:
    """The field of a struct that holds bytes: `bytes`, a usual name, or the first that can."""
    names: list[str] = [f.name for f in kind if holds_bytes(f.type)]
    usual = [name for name in ("bytes", *IMAGE_COLUMNS) if name in names]
    return next(iter(usual + names), None)


def _type_of(schema: pa.Schema, column: str) -> pa.DataType | None:
    """The type of a column, or of a field of a struct that is named with dots."""
    if schema.names.count(column) == 1:
        return schema.field(column).type
    head, _, rest = column.rpartition(".")
    kind = _type_of(schema, head) if head else None
    if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(rest) < 0:
        return None
    return kind.field(rest).type


def _leaf(schema: pa.Schema, column: str) -> str:
    """The path of what is read of a column: of structs, the field with the bytes alone."""
    kind = _type_of(schema, column)
    while kind is not None and pa.types.is_struct(kind):
        name = _bytes_field(kind)
        column, kind = f"{column}.{name}", kind.field(name).type
    return column


def _read_of(schema: pa.Schema, column: str) -> list[str]:
    """What is read of a column: the bytes, and the path that Hugging Face's struct has beside."""
    leaf = _leaf(schema, column)
    beside = f"{leaf.rpartition('.')[0]}.path"
    return [leaf, beside] if _type_of(schema, beside) == pa.string() else [leaf]


def column_schema(schema: pa.Schema) -> pa.Schema:
    """The columns that go along: numbers, text, dates; not nested ones, not other binaries."""

    def is_passed(kind: pa.DataType) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return any(is_one(kind) for is_one in _PASSED)

    return pa.schema([f for f in schema if is_passed(f.type)])


def list_members(
    parquet: pq.ParquetFile, wanted: str, columns: pa.Schema
) -> Iterator[tuple[list[Member], pa.RecordBatch]]:
    """All rows, named by their number, with the columns that are to go along with them.

    `Member.where` is ("parquet", row group, row in it, column). The images are not read, but where
    they are in lists: of a row with several, the further ones are named `7.1`, `7.2` and have their
    place in the list as a fifth entry.

    Raises:
      ArchiveBroken: no column of images, or damaged; after the rows that could be found.
    """
    column = image_column(parquet.schema_arrow, wanted)
    if column is None:
        others = ", ".join(parquet.schema_arrow.names)
        text = f"no column of images among {others}; name it with --image-column"
        raise ArchiveBroken("read_error", text)
    names = [name for name in columns.names if name in parquet.schema_arrow.names]
    counts = _counts(parquet, column)
    number = 0
    for group in range(parquet.num_row_groups):
        for values in _values(parquet, group, names):
            members, rows = [], []
            for row in range(values.rows.num_rows):
                name, where = str(number + row), ("parquet", group, values.first + row, column)
                members.append(Member(name, -1, where))
                more = range(1, next(counts) if counts else 1)
                members += [Member(f"{name}.{k}", -1, (*where, k)) for k in more]
                rows += [row] * (1 + len(more))
            yield members, values.rows.take(pa.array(rows, pa.int64())) if counts else values.rows
            number += values.rows.num_rows


def _counts(parquet: pq.ParquetFile, column: str) -> Iterator[int] | None:
    """How many images each row has; None: one, or none."""
    kind = _type_of(parquet.schema_arrow, column)
    while kind is not None and pa.types.is_struct(kind):
        kind = kind.field(_bytes_field(kind)).type
    if kind is None or not _is_list(kind) or _is_octets(kind):
        return None

    def counted() -> Iterator[int]:
        leaf = _leaf(parquet.schema_arrow, column)
        try:
            for batch in parquet.iter_batches(_READ_ROWS, columns=[leaf]):
                for row in batch.columns[0]:
                    *_, value = None, *_layers(row, None)
                    yield len(value) if value is not None and _is_list(value.type) else 0
        except _DAMAGE as error:
            raise ArchiveBroken("read_error", first_line(error)) from None

    return counted()


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
        raise ArchiveBroken("read_error", first_line(error)) from None


class ImageRows:
    """The images of one row group, read front to back in bounded memory."""

    def __init__(self, file: Stream, group: int, column: str) -> None:
        parquet = open_parquet(file)
        leaves = _read_of(parquet.schema_arrow, column)
        self._batches = parquet.iter_batches(_READ_ROWS, row_groups=[group], columns=leaves)
        self._first, self._rows = 0, pa.array([], pa.binary())
        self._broken: tuple[str, str] | None = None

    @property
    def at(self) -> int:
        """The first row that can still be read."""
        return self._first

    def read(self, row: int, max_bytes: int, place: int = 0) -> bytes:
        """The image in a row of the group, `at` or later; of a list, the one at a place.

        Raises:
          ImageError: `not_found`, `too_large`, `read_error` or `truncated`.
        """
        if self._broken:  # what lies behind a damage is not looked for again
            raise ImageError(*self._broken)
        while row >= self._first + len(self._rows):
            first = self._first + len(self._rows)
            try:
                rows = next(self._batches).column(0)
            except _DAMAGE as error:
                self._broken = ("read_error", first_line(error))
                raise ImageError(*self._broken) from None
            except StopIteration:
                self._broken = ("truncated", "the row group ends before the row")
                raise ImageError(*self._broken) from None
            self._first, self._rows = first, rows
        buffer = _buffer(self._rows[row - self._first], place)
        if buffer is None:
            path = _path(self._rows[row - self._first], place)
            only = f", only the path {path[:_SHOWN_PATH]!r}: name it in a list" if path else ""
            raise ImageError("not_found", f"the row holds no bytes{only}")
        if buffer.size > max_bytes:
            raise ImageError(
                "too_large",
                f"{buffer.size:,} bytes, limit {max_bytes:,} (raise it with --max-bytes)",
            )
        image: bytes = buffer.to_pybytes()
        return image


def _layers(value: pa.Scalar | None, place: int | None) -> Iterator[pa.Scalar]:
    """A scalar, then what is in it, as far as there is any: of a struct the field with bytes, of
    dictionaries and extension types what they stand for, of a list of images the one at a place.
    """
    while value is not None and value.is_valid:
        yield value
        if isinstance(value, pa.StructScalar):
            name = _bytes_field(value.type)
            value = value[name] if name else None
        elif isinstance(value, (pa.DictionaryScalar, pa.ExtensionScalar)):
            value = value.value
        elif place is None or not _is_list(value.type) or _is_octets(value.type):
            return
        else:
            value, place = value.values[place] if len(value) > place else None, 0


def _path(value: pa.Scalar, place: int) -> str:
    """The path that Hugging Face's struct has in place of bytes; "": none."""
    path = ""
    for layer in _layers(value, place):
        if isinstance(layer, pa.StructScalar) and "path" in layer:
            path = layer["path"].as_py()
    return path if isinstance(path, str) else ""


def _buffer(value: pa.Scalar, place: int) -> pa.Buffer | None:
    """The bytes in a scalar; None: there are none."""
    *_, inner = None, *_layers(value, place)
    if inner is not None and _is_octets(inner.type):
        return pa.py_buffer(inner.values.drop_null().to_numpy(zero_copy_only=False).tobytes())
    return inner.as_buffer() if isinstance(inner, pa.BinaryScalar) else None
