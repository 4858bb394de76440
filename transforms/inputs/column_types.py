"""Types and names of the columns that go along with images: what every engine reads.

Text stays text, unless all of a column prints back as it was written from a type. Types that other
engines do not read become the nearest that they do: microseconds, signed integers, plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.transforms.records import OUTPUT_COLUMNS, REF_COLUMNS

_MAX_NAME = 280  # letters; BigQuery takes 300, a prefix included
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d([ T])\d\d:\d\d:\d\d(?:\.(\d{3}|\d{6}))?(Z|\+00:00)?", re.ASCII
)
_UNITS = {0: "s", 3: "ms", 6: "us"}
# Names that BigQuery keeps for itself.
_RESERVED = ("_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier")
_GUESSED = {b"imagecensus.guessed": b"1"}
_LISTS = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list,
    pa.types.is_list_view, pa.types.is_large_list_view,
)  # fmt: skip
_DECIMAL_DIGITS = 38  # the most that DuckDB and Spark have
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


class TypeProof:
    """Finds the type of one column of text, batch by batch."""

    def __init__(self) -> None:
        self._candidates = dict(_TRIALS)
        self._seen = False

    def add(self, values: pa.Array) -> None:
        """Looks at further values: text, or null."""
        values = values.drop_null()
        if not len(values):
            return
        self._seen = True
        for name, trial in list(self._candidates.items()):
            if not _prints_back(values, trial):
                del self._candidates[name]

    def field(self, name: str) -> pa.Field:
        """The field of this column; of one without any value, it says that the type is a guess."""
        return pa.field(name, self.type, metadata=None if self._seen else _GUESSED)

    @property
    def type(self) -> pa.DataType:
        """The first type that every value prints back from; text where there is none."""
        if not self._seen or not self._candidates:
            return pa.string()
        return _TYPES[next(iter(self._candidates))]


def from_text(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text as a type that `TypeProof` found for it."""
    if kind == pa.string():
        return values
    if pa.types.is_timestamp(kind):
        return _timestamps(values).cast(kind)
    return values.cast(kind)


def _prints_back(values: pa.Array, trial: Callable[[pa.Array], pa.Array]) -> bool:
    try:
        return bool(trial(values).equals(values))
    except pa.ArrowException:
        return False


def _through(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    return lambda values: values.cast(kind).cast(pa.string())


def _through_repr(values: pa.Array) -> pa.Array:
    """Numbers as Python, pandas and R write them: 1.0 and not 1."""
    return pa.array([repr(number) for number in values.cast(pa.float64()).to_pylist()])


def _through_timestamp(zone: bool) -> Callable[[pa.Array], pa.Array]:
    def trial(values: pa.Array) -> pa.Array:
        match = _TIMESTAMP.fullmatch(values[0].as_py())
        if not match or bool(match[3]) != zone:
            return pa.array([], pa.string())
        unit = _UNITS[len(match[2] or "")]
        texts = _timestamps(values).cast(pa.timestamp(unit)).cast(pa.string())
        if match[1] == "T":
            texts = pc.replace_substring(texts, " ", "T")
        return pc.binary_join_element_wise(texts, match[3], "") if zone else texts

    return trial


def _timestamps(values: pa.Array) -> pa.Array:
    """Microseconds of UTC; a mark of UTC at the end is taken off."""
    return pc.replace_substring_regex(values, r"(Z|\+00:00)$", "").cast(pa.timestamp("us"))


_TRIALS: list[tuple[str, Callable[[pa.Array], pa.Array]]] = [
    ("int", _through(pa.int64())),
    ("number", _through(pa.float64())),
    ("repr", _through_repr),
    ("bool", _through(pa.bool_())),
    ("date", _through(pa.date32())),
    ("time", _through_timestamp(zone=False)),
    ("utc", _through_timestamp(zone=True)),
]
_TYPES = {
    "int": pa.int64(),
    "number": pa.float64(),
    "repr": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
    "utc": pa.timestamp("us", "UTC"),
}


def narrow_type(kind: pa.DataType) -> pa.DataType:
    """The type that DuckDB, Spark, BigQuery and pandas all read, for one that Parquet holds."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return narrow_type(kind.value_type)
    if any(is_text(kind) for is_text in _TEXTS) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_decimal(kind):
        fits = kind.precision <= _DECIMAL_DIGITS and 0 <= kind.scale <= kind.precision
        return pa.decimal128(kind.precision, kind.scale) if fits else pa.string()
    if pa.types.is_map(kind):
        return pa.map_(narrow_type(kind.key_type), narrow_type(kind.item_type))
    if any(is_list(kind) for is_list in _LISTS):
        return pa.list_(narrow_type(kind.value_type))
    if pa.types.is_struct(kind) and kind.num_fields:
        return pa.struct([(field.name, narrow_type(field.type)) for field in kind])
    if pa.types.is_union(kind) or pa.types.is_struct(kind):
        return pa.string()
    return _NARROW.get(str(kind).partition("[")[0], kind)


_NARROW = {
    "uint8": pa.int16(),
    "uint16": pa.int32(),
    "uint32": pa.int64(),
    "uint64": pa.decimal128(20, 0),
    "halffloat": pa.float32(),
    "date64": pa.date32(),
    "time32": pa.time64("us"),
    "time64": pa.time64("us"),
    "large_binary": pa.binary(),
    "binary_view": pa.binary(),
    "fixed_size_binary": pa.binary(),
    "month_day_nano_interval": pa.string(),
    "duration": pa.int64(),
}


def as_type(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values of one type as another, of `narrow_type` or text; what cannot be cast is written."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if values.type == kind:
        return values
    if pa.types.is_list_view(values.type) or pa.types.is_large_list_view(values.type):
        return pa.array(values.to_pylist(), kind)  # Arrow's cast makes lists without an end
    try:
        return values.cast(kind, safe=False)
    except pa.ArrowException:
        return pa.array([_written(value) for value in values.to_pylist()], pa.string())


def as_text(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Values as the text that a list would have of them: no fraction of a second that is zero."""
    texts = values.cast(pa.string())
    if pa.types.is_timestamp(values.type):
        texts = pc.replace_substring_regex(texts, r"\.000000(Z?)$", r"\1")
    return texts


def together(first: pa.Field, other: pa.Field) -> pa.Field:
    """The field of a column to which two lists give these: text where they disagree."""
    if first.type == other.type or is_guessed(other):
        return first
    return other if is_guessed(first) else pa.field(first.name, pa.string())


def is_guessed(field: pa.Field) -> bool:
    """Whether no value shows the type of a list's column."""
    return _GUESSED.items() <= (field.metadata or {}).items()


def _written(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def passed_names(names: Iterable[str]) -> list[str]:
    """Names that the output can have, for a list's columns, in their order.

    Letters, digits and underscores; another name than ours and each other's, whatever the case, as
    engines of SQL compare them. The prefix of those that are ours is `manifest_`.
    """
    used: set[str] = set()
    found = []
    for name in names:
        clean = re.sub(r"\W", "_", name.strip())[:_MAX_NAME] or "column"
        if clean[0].isdigit():
            clean = "_" + clean
        folded = clean.casefold()
        if folded in OUTPUT_COLUMNS or folded in REF_COLUMNS or folded.startswith(_RESERVED):
            clean = "manifest_" + clean
        candidate, number = clean, 1
        while candidate.casefold() in used:
            number += 1
            candidate = f"{clean}_{number}"
        used.add(candidate.casefold())
        found.append(candidate)
    return found
