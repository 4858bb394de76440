"""TFRecord files of `tf.Example`, plain or in gzip, decoded by tfx-bsl into Arrow.

The framing is length (8 bytes), its checksum (4), the record, its checksum (4). tfx-bsl's TFXIO
reads whole files; here each record is read by its own byte range, so that files are cut into
units, and goes through the decoder underneath TFXIO, which needs no TensorFlow at run time.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.example_proto import NoExample, count_values
from imagecensus.transforms.archives.members import (
    MAX_HEADER,
    ArchiveBroken,
    Member,
    Stream,
    failed,
    reason_of,
)

if TYPE_CHECKING:  # an extra
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

# TFDS' names first, then those of widespread converters.
IMAGE_FEATURES = (
    "image", "image/encoded", "image_raw", "image/raw", "img", "image_bytes", "encoded", "jpeg",
    "jpg", "png", "webp", "image_data", "data",
)  # fmt: skip
_HEADER = struct.Struct("<QI")
_CHUNK = 256
_MOST = 10_000  # images of one record
_mine = threading.local()
_CHUNK_BYTES = 32 << 20
_SCALARS = (pa.types.is_int64, pa.types.is_float32, pa.types.is_large_binary)


def is_tfrecord(head: bytes) -> bool:
    """Whether a file that starts with `head` (12 bytes at least) is framed like TFRecords."""
    return len(head) >= _HEADER.size and _masked_crc(head[:8]) == _HEADER.unpack_from(head)[1]


def list_members(
    file: Stream, size: int | None, kind: str, image_feature: str, columns: pa.Schema
) -> Iterator[tuple[list[Member], pa.RecordBatch]]:
    """All records, named by their number, with the features that are to go along with them.

    Of a record with several images, the further ones are named `7.1`, `7.2`, and have their place
    in the feature as a fifth entry of `Member.where`.

    Args:
      file: a seekable stream of the (decompressed) file.
      size: its length, None where that is not known.
      kind: "tfrecord", "tfrecord.gz" and so on, first in `Member.where`; then offset, length,
        feature.
      image_feature: the feature of the images; empty: the first of `IMAGE_FEATURES` there is.
      columns: the features to pass through, from `column_schema`.

    Raises:
      ArchiveBroken: after the records that could be found.
    """
    feature = _find_feature(_first_record(file), image_feature)
    file.seek(0)
    members: list[Member] = []
    records: list[bytes] = []
    rows: list[int] = []  # which of `records` each member is in
    held = 0
    broken = None
    # What is packed is read to its end anyway, and never back.
    needed = bool(len(columns)) or kind != "tfrecord"
    try:
        for number, (offset, length) in enumerate(frames(file)):
            if size is not None and offset + length + 4 > size:
                text = f"a record of {length:,} bytes, the file ends before that"
                members.append(failed(str(number), "truncated", text, length))
                rows.append(len(records))
                records.append(b"")
                raise ArchiveBroken("truncated", "the file ends within a record")
            where = (kind, offset, length, feature)
            members.append(Member(str(number), length, where))
            rows.append(len(records))
            records.append(b"")
            # A record too large to hold goes without its columns.
            record = _read(file, length) if needed and length <= MAX_HEADER else None
            count = _count_images(file, where, record)
            members += [Member(f"{number}.{k}", length, (*where, k)) for k in range(1, count)]
            rows += [rows[-1]] * (count - 1)
            if record and len(columns):
                records[-1] = record
                held += length
            if len(members) >= _CHUNK or held > _CHUNK_BYTES:
                yield members, _columns(records, columns).take(pa.array(rows))
                members, records, rows, held = [], [], [], 0
    except ArchiveBroken as error:
        broken = error
    yield members, _columns(records, columns).take(pa.array(rows, pa.int64()))
    if broken:
        raise broken


def _count_images(file: Stream, where: tuple[str, int, int, str], record: bytes | None) -> int:
    """How many images a record holds, at least 1 and up to `_MOST`; 1 where that is not known.

    Args:
      file: of the records; asked where the record was not read.
      where: of the member.
      record: its bytes, where they were read.
    """
    kind, offset, length, feature = where
    try:
        if record is not None:
            count = count_values(io.BytesIO(record), 0, length, feature)
        else:
            count = count_values(file, offset, length, feature) if kind == "tfrecord" else 1
    except NoExample:  # reading it will say so
        return 1
    return min(max(count, 1), _MOST)


def _read(file: Stream, length: int) -> bytes:
    """The next bytes of a file. Raises ArchiveBroken."""
    try:
        return file.read(length)
    except EOFError as error:
        raise ArchiveBroken("truncated", str(error)) from None
    except (OSError, zlib.error) as error:
        raise ArchiveBroken("read_error", reason_of(error)) from None


def column_schema(file: Stream, image_feature: str) -> pa.Schema:
    """The features of the first record that hold one value: numbers, or text in UTF-8."""
    try:
        features = _decode_any(_first_record(file))
        image = _find_feature(features, image_feature)
    except ArchiveBroken:
        return pa.schema([])
    fields = []
    for field in features.schema:
        values = features.column(field.name)
        value_type = getattr(field.type, "value_type", None)
        if field.name == image or value_type is None or len(values[0]) != 1:
            continue
        if not any(is_scalar(value_type) for is_scalar in _SCALARS):
            continue
        if pa.types.is_large_binary(value_type):
            value_type = pa.string()
            if _text(values[0][0].as_py()) is None:
                continue
        fields.append(pa.field(field.name, value_type))
    return pa.schema(fields)


def read_member(read_at: Callable[[int, int], bytes], where: Sequence[Any]) -> bytes:
    """The image in one record.

    Args:
      read_at: (offset, length) → bytes of the (decompressed) file.
      where: of the member, without the kind.

    Raises:
      ImageError: `truncated`, `read_error` or `not_an_image`.
    """
    offset, length, feature, *at = where
    data = read_at(offset, length + 4)
    if len(data) < length + 4:
        raise ImageError("truncated", "the file ends within the record")
    record = data[:length]
    if _masked_crc(record) != int.from_bytes(data[length:], "little"):
        raise ImageError("read_error", "the record's checksum is wrong")
    try:
        features = _decode([record], ((feature, "bytes"),))
    except RuntimeError as error:
        raise ImageError(
            "read_error", f"no tf.Example with a {feature!r} of bytes: {error}"
        ) from None
    values: list[bytes] | None = features.column(feature)[0].as_py()
    if not values:
        raise ImageError("not_an_image", f"the record has no feature {feature!r}")
    if at and at[0] >= len(values):
        raise ImageError("read_error", f"image {at[0]} of the record is not there any more")
    return values[at[0] if at else 0]


def frames(file: Stream) -> Iterator[tuple[int, int]]:
    """(offset, length) of each record; the caller may read the record, and must not seek else."""
    at = 0
    try:
        while True:
            file.seek(at)
            head = file.read(_HEADER.size)
            if not head:
                return
            if len(head) < _HEADER.size:
                raise ArchiveBroken("truncated", "the file ends within a record's header")
            length, crc = _HEADER.unpack(head)
            if _masked_crc(head[:8]) != crc:
                raise ArchiveBroken(
                    "read_error", f"the length at byte {at:,} is damaged; what follows is lost"
                )
            yield at + _HEADER.size, length
            at += _HEADER.size + length + 4
    except EOFError as error:
        raise ArchiveBroken("truncated", str(error)) from None
    except (OSError, zlib.error, OverflowError) as error:
        raise ArchiveBroken("read_error", reason_of(error)) from None


def _first_record(file: Stream) -> bytes:
    for _, length in frames(file):
        if length > MAX_HEADER:
            raise ArchiveBroken("too_large", f"the first record has {length:,} bytes")
        return _read(file, length)
    return b""


def _find_feature(record: bytes | pa.RecordBatch, wanted: str) -> str:
    features = record if isinstance(record, pa.RecordBatch) else _decode_any(record)
    names = features.schema.names
    if wanted:
        return wanted
    for name in IMAGE_FEATURES:
        if name in names and pa.types.is_large_list(features.schema.field(name).type):
            return name
    raise ArchiveBroken(
        "read_error",
        f"no feature of images among {', '.join(names) or 'none'}; name it with --image-column",
    )


def _decode_any(record: bytes) -> pa.RecordBatch:
    try:
        return _decode([record])
    except RuntimeError as error:
        raise ArchiveBroken("read_error", f"no tf.Example in it: {error}") from None


def _columns(records: list[bytes], columns: pa.Schema) -> pa.RecordBatch:
    """The first value of each feature of each record; null where it lacks it."""
    if not len(columns):
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(records), pa.struct([])))
    kinds = tuple((field.name, _KINDS[str(field.type)]) for field in columns)
    try:
        batches = [_decode(records, kinds)] if records else []
    except RuntimeError:  # one of them is damaged, or has a feature of another type
        batches = [_decode_or_nothing(record, kinds) for record in records]
    arrays = []
    for field in columns:
        chunks = [_first_values(batch.column(field.name), field.type) for batch in batches]
        arrays.append(pa.chunked_array(chunks, field.type).combine_chunks())
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _decode_or_nothing(record: bytes, kinds: Features) -> pa.RecordBatch:
    try:
        return _decode([record], kinds)
    except RuntimeError:
        return _decode([b""], kinds)


def _first_values(lists: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_null(lists.type):
        return pa.nulls(len(lists), wanted)
    some = pc.greater(pc.fill_null(pc.list_value_length(lists), 0), 0)
    firsts = [
        value.as_py()[0] if ok.as_py() else None for value, ok in zip(lists, some, strict=True)
    ]
    if pa.types.is_string(wanted):
        firsts = [None if value is None else _text(value) for value in firsts]
    return pa.array(firsts, wanted)


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


# Names of features, and what `_KINDS` says of their types.
Features = tuple[tuple[str, str], ...]

_KINDS = {"string": "bytes", "int64": "int", "float": "float"}


def _decode(records: list[bytes], features: Features = ()) -> pa.RecordBatch:
    """The named features of serialized tf.Examples, or all: lists of values, or null.

    Raises:
      RuntimeError: a record is no tf.Example, or a feature is of another type.
      UserError: tfx-bsl is not installed.
    """
    # A decoder is one thread's, and one that failed keeps half a batch: it is thrown away.
    decoders = _mine.__dict__.setdefault("decoders", {})
    decoder = decoders.pop(features, None) or _make_decoder(features)
    batch = decoder.DecodeBatch(records)
    decoders[features] = decoder
    return batch


def _make_decoder(features: Features) -> ExamplesToRecordBatchDecoder:
    try:
        from tensorflow_metadata.proto.v0 import schema_pb2
        from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder
    except ImportError:
        raise UserError(
            "TFRecord files need tfx-bsl: install it with pip install 'imagecensus[tensorflow]'"
        ) from None
    if not features:
        return ExamplesToRecordBatchDecoder()
    kinds = {"bytes": schema_pb2.BYTES, "int": schema_pb2.INT, "float": schema_pb2.FLOAT}
    schema = schema_pb2.Schema(
        feature=[schema_pb2.Feature(name=name, type=kinds[kind]) for name, kind in features]
    )
    return ExamplesToRecordBatchDecoder(schema.SerializeToString())


def _masked_crc(data: bytes) -> int:
    import google_crc32c

    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
