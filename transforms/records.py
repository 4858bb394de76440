"""The records that flow through the job, and the one schema of its output.

References become batches of pixels, batches become rows. Between stages everything is columnar:
Arrow record batches and one uint8 array, no Python object per image.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.transforms.decoders.requests import Answer


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
# say; `etag_or_mtime` is a bucket object's generation or a file's mtime in nanoseconds.
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

# What a file says of itself beside its pixels, and what its bytes are. Datasets that were begun
# before there were these columns go on without them. GPS_FACTS and
# SHARE_FACT are kept only where asked for.
FACT_TYPES = {
    "taken_at": pa.string(),
    "camera": pa.string(),
    "orientation": pa.int8(),
    "pages": pa.int32(),
    "xxh128": pa.string(),
    "latitude": pa.float64(),
    "longitude": pa.float64(),
    "share": pa.float32(),
}
GPS_FACTS = ("latitude", "longitude")
SHARE_FACT = "share"
FACTS = tuple(name for name in FACT_TYPES if name not in (*GPS_FACTS, SHARE_FACT))


def prediction_schema(
    passthrough: pa.Schema | None = None,
    embedding_size: int | None = None,
    facts: Sequence[str] = (),
) -> pa.Schema:
    """The schema of the output table: one row per image.

    Args:
      passthrough: columns of the manifest that go along with each image.
      embedding_size: length of the embedding column; None leaves the column out.
      facts: of `FACT_TYPES`. A list's column of such a name takes its place.
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
    theirs = {field.name.casefold() for field in passthrough or ()}
    fields.extend(pa.field(name, FACT_TYPES[name]) for name in facts if name not in theirs)
    fields.extend(passthrough or ())
    return pa.schema(fields)


def facts_in(rows: pa.Table | pa.RecordBatch) -> tuple[str, ...]:
    """The facts that a table has columns of."""
    return tuple(
        name
        for name, kind in FACT_TYPES.items()
        if name in rows.schema.names and rows.schema.field(name).type == kind
    )


# What was done to images, or not, that a user may want to know of: see docs/formats.md.
NOTED = ("images_depth_scaled", "images_colour_converted", "images_with_more_pages")

OUTPUT_COLUMNS = tuple(prediction_schema(embedding_size=1).names)


# Columns of the plan alone, which no table has: which input listed the image; what its store says
# of the bytes of its object, or of its archive (null: nothing, or the version does); and under
# which uri the part before this revision of the unit has its row (null: it is to be classified).
SOURCE_COLUMN = "imagecensus.source"
CHECKSUM_COLUMN = "imagecensus.checksum"
TAKEN_COLUMN = "imagecensus.taken"
LISTED_COLUMNS = (SOURCE_COLUMN, CHECKSUM_COLUMN)
PLAN_COLUMNS = (*LISTED_COLUMNS, TAKEN_COLUMN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """One unit of work: the references of one part of the output, in their present revision.

    `name` is the digest of the references that the unit was planned with, and the fingerprint.
    Where images have changed, failed or gone, the unit gets a further revision: a new list of
    references, and a new part, whose rows are partly taken over from the part of revision `base`.
    The references stay in the plan file.
    """

    name: str
    plan: str  # uri of the plan file
    row_group: int  # where in it
    rows: int
    revision: int = 0
    base: int = -1  # the revision whose part has the rows that are not classified again; -1: none
    digest: str = ""  # of this revision's references; empty: it is the name

    @property
    def expected(self) -> str:
        """The digest that the rows of this unit's part must have."""
        return self.digest or self.name


@dataclasses.dataclass(kw_only=True)
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
      facts: of `FACT_TYPES`, those that the dataset keeps: N values or None each.
      noted: how many images had something that is counted, by the counter's name.
    """

    unit: Unit
    refs: pa.RecordBatch
    status: list[Any]
    error: list[Any]
    width: list[Any]
    height: list[Any]
    format: list[Any]
    bytes: list[Any]
    pixels: np.ndarray
    last: bool
    facts: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    noted: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @classmethod
    def of(
        cls, unit: Unit, refs: pa.RecordBatch, shape: tuple[int, int, int], *,
        facts: Sequence[str] = (), last: bool = True,
    ) -> ImageBatch:  # fmt: skip
        """A batch of which nothing is decoded yet; its pixels have a place for each row."""
        rows = refs.num_rows

        def nothing() -> list[Any]:
            return [None] * rows

        return cls(
            unit=unit, refs=refs, status=[Status.OK.value] * rows, error=nothing(),
            width=nothing(), height=nothing(), format=nothing(), bytes=nothing(),
            pixels=np.empty((rows, *shape), np.uint8), last=last,
            facts={name: nothing() for name in facts},
        )  # fmt: skip

    def keep(self, row: int, answer: Answer) -> None:
        """Keeps what became of a row; raises what is no fault of its image."""
        self.bytes[row] = answer.size
        if "xxh128" in self.facts:
            self.facts["xxh128"][row] = answer.xxh128
        error, info = answer.error, answer.info
        if isinstance(error, ImageError):
            self.status[row], self.error[row] = error.status, str(error)
            self.format[row] = error.image_format
        elif error or not info:
            raise error or AssertionError(row)
        else:
            self.width[row], self.height[row], self.format[row] = (
                info.width, info.height, info.format,
            )  # fmt: skip
            for name, values in self.facts.items():
                if name != "xxh128":
                    values[row] = getattr(info, name)
            said = (info.depth_scaled, info.colour_converted, (info.pages or 1) > 1)
            self.noted.update(name for name, so in zip(NOTED, said, strict=True) if so)

    def drop_unread(self) -> None:
        """Leaves the pixels of the images that were decoded."""
        good = [row for row, status in enumerate(self.status) if status == Status.OK.value]
        if len(good) < len(self.status):
            self.pixels = self.pixels[good]

    def __len__(self) -> int:
        return len(self.status)


@dataclasses.dataclass(kw_only=True)
class PredictionBatch:
    """Finished rows of one unit: `rows` has `prediction_schema`. `last` closes the unit.

    `engine` is the one that answered; `noted` as of `ImageBatch`.
    """

    unit: Unit
    rows: pa.RecordBatch
    last: bool
    engine: str = ""
    noted: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __len__(self) -> int:
        return int(self.rows.num_rows)
