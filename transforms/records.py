"""The records that flow through the job, and the one schema of its output.

References become batches of pixels, batches become rows. Between stages everything is columnar:
Arrow record batches and one uint8 array, no Python object per image.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import pyarrow as pa


class Status(enum.StrEnum):
    """What became of one listed image: a closed set. `docs/output.md` explains each value."""

    OK = "ok"
    NOT_FOUND = "not_found"
    PERMISSION_DENIED = "permission_denied"
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_LARGE = "too_large"
    DECODE_ERROR = "decode_error"
    DECODE_TIMEOUT = "decode_timeout"
    DECODE_CRASH = "decode_crash"
    READ_ERROR = "read_error"
    INFERENCE_ERROR = "inference_error"


# Row i of a unit of work. `uri` is unique in a dataset; `size` is -1 where the listing does not
# tell; `etag_or_mtime` is a bucket object's generation or a file's mtime in nanoseconds.
# `container` is the packed archive that holds the image, and `member` says where in it, as JSON
# (`archive_members.Member.where`); both null: the uri is a file of its own.
REF_FIELDS = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("etag_or_mtime", pa.string(), nullable=False),
    pa.field("container", pa.string()),
    pa.field("member", pa.string()),
]
REF_SCHEMA = pa.schema(REF_FIELDS)
REF_COLUMNS = tuple(REF_SCHEMA.names)

TOP_K_TYPE = pa.list_(
    pa.struct([("label", pa.string()), ("class_id", pa.int32()), ("score", pa.float32())])
)
STATUS_TYPE = pa.dictionary(pa.int8(), pa.string())


def prediction_schema(
    passthrough: pa.Schema | None = None, embedding_size: int | None = None
) -> pa.Schema:
    """The schema of the output table: one row per image.

    Args:
      passthrough: columns of the manifest that go along with each image.
      embedding_size: length of the embedding column; None leaves the column out.
    """
    fields = [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", STATUS_TYPE, nullable=False),
        pa.field("error", pa.string()),
        pa.field("label", pa.string()),
        pa.field("class_id", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("top_k", TOP_K_TYPE),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("etag_or_mtime", pa.string(), nullable=False),
    ]
    if embedding_size is not None:
        # Rows without a prediction hold a list of nulls: Arrow cannot read a null list back.
        fields.append(pa.field("embedding", pa.list_(pa.float32(), embedding_size)))
    fields.extend(passthrough or ())
    return pa.schema(fields)


OUTPUT_COLUMNS = tuple(prediction_schema(embedding_size=1).names)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One unit of work: the references of one part of the output.

    `name` is the digest of the references and the fingerprint, so that a retry writes the same
    object again. The references stay in the plan file; only this small record is shuffled.
    """

    name: str
    plan: str  # uri of the plan file
    row_group: int  # where in it
    rows: int
    retry: bool = False  # True: only the failed rows of an existing part are redone


@dataclasses.dataclass
class ImageBatch:
    """A run of consecutive references of one unit, decoded.

    Attributes:
      unit: the unit these rows belong to.
      refs: `REF_SCHEMA` plus passthrough columns, N rows.
      status: N status values; pixels exist only for the "ok" ones.
      error: N messages or None.
      width, height, format, bytes: N values or None: what the file says of itself.
      pixels: uint8 [M, height, width, 3], the M images decoded, in row order.
      last: this is the unit's final batch.
    """

    unit: Unit
    refs: pa.RecordBatch
    status: list
    error: list
    width: list
    height: list
    format: list
    bytes: list
    pixels: np.ndarray
    last: bool

    def __len__(self) -> int:
        return len(self.status)


@dataclasses.dataclass
class PredictionBatch:
    """Finished rows of one unit: `rows` has `prediction_schema`. `last` closes the unit."""

    unit: Unit
    rows: pa.RecordBatch
    last: bool

    def __len__(self) -> int:
        return self.rows.num_rows
