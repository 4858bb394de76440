"""The index of a plan file: what its rows are known by, so that a rerun reads no plan but this.

Beside `plan-00000.parquet` lies `plan-00000.index`: one line of JSON with the units,
then for each row a hash of its uri and one of its size and version. Equal hashes are a hint: what
they find is read from the plan and compared itself. An index that is lost, damaged, of another
library's hashes or of other bytes than those of the plan file costs time; it is made anew.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from imagecensus.transforms.records import CHECKSUM_COLUMN, SOURCE_COLUMN
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.store import Stored

if TYPE_CHECKING:
    import duckdb

LEAST_ROWS = 16_384  # a smaller plan file is read itself as fast
# What an index is made of; the last two are missing in old plans.
COLUMNS = ("uri", "size", "etag_or_mtime", "member", SOURCE_COLUMN, CHECKSUM_COLUMN)
_ENDING = ".index"
_HEAD_BYTES = 1 << 17  # the first line is shorter
_FEW_SOURCES = 16
_LEAST_BITS, _MOST_BITS = 20, 28  # of a table: 1 MB, 256 MB
_AT_ONCE = 1 << 18
_HASHES = """SELECT hash(uri) AS uris, CASE WHEN content <> '' THEN hash(size, content, member)
    ELSE 0 END AS versions FROM (SELECT *, {} AS content FROM rows)"""
_CONTENT = f"""coalesce(nullif("{CHECKSUM_COLUMN}", ''), etag_or_mtime)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hashes:
    """Hashes of rows, in their order.

    Attributes:
      uris: uint64 [rows].
      versions: uint64 [rows], of what images that only moved keep: size, place in an archive, and
        the store's checksum or else the version; 0: not known.
    """

    uris: np.ndarray
    versions: np.ndarray

    def __len__(self) -> int:
        return len(self.uris)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Where the images of a plan file lie.

    Attributes:
      sources: the inputs that listed them; None: there are too many.
      first, last: of the uris in their order.
    """

    sources: tuple[str | None, ...] | None
    first: str
    last: str

    def may_have(self, folder: str) -> bool:
        """Whether an image may come from this input, or lie in it."""
        listed = self.sources is None or folder in self.sources
        return listed or may_begin(folder, self.first, self.last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The first line of an index.

    Attributes:
      location: of the index.
      units: the entries of the plan file.
      schema: of the plan file.
      hashed_by: which library's hashes these are.
      digest: XXH3-128 of the hashes.
      start: where they begin.
    """

    location: str
    units: list[list[Any]]
    schema: pa.Schema
    summary: Summary
    hashed_by: str
    digest: str
    start: int


def may_begin(folder: str, first: str, last: str) -> bool:
    """Whether one of the uris from `first` to `last` may lie in a folder or archive."""
    stem = folder.rstrip("/")
    return first <= stem + "\U0010ffff" and last >= stem


def location_of(plan: str) -> str:
    """Where the index of a plan file is."""
    return plan.removesuffix(".parquet") + _ENDING


def hash_rows(rows: pa.Table) -> Hashes:
    """Of rows with `COLUMNS`, the last two of which may be missing."""
    content = _CONTENT if CHECKSUM_COLUMN in rows.schema.names else "etag_or_mtime"
    cursor = _connection().cursor()
    cursor.register("rows", rows.select([name for name in COLUMNS if name in rows.schema.names]))
    found = cursor.execute(_HASHES.format(content)).fetchnumpy()
    cursor.unregister("rows")
    cursor.close()
    return Hashes(uris=np.asarray(found["uris"]), versions=np.asarray(found["versions"]))


def summarise(rows: pa.Table) -> Summary:
    """Of at least one row with `COLUMNS`."""
    ends = pc.min_max(rows.column("uri")).as_py()
    sources: tuple[str | None, ...] = ()
    if SOURCE_COLUMN in rows.schema.names:
        sources = tuple(pc.unique(rows.column(SOURCE_COLUMN)).to_pylist())
    return Summary(
        sources=sources if len(sources) <= _FEW_SOURCES else None,
        first=ends["min"], last=ends["max"],
    )  # fmt: skip


def write_index(
    plan: Stored, units: list[list[Any]], schema: pa.Schema, rows: pa.Table, hashes: Hashes
) -> None:
    """Writes the index of a plan file that is there: of this schema, with at least `COLUMNS`.

    Raises StorageError.
    """
    summary = dataclasses.asdict(summarise(rows))
    kept = base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()
    data = hashes.uris.tobytes() + hashes.versions.tobytes()
    head = json.dumps(
        {
            "plan": [plan.size, plan.version], "units": units, "schema": kept, **summary,
            "hashed_by": _library(), "digest": xxhash.xxh3_128_hexdigest(data),
        }
    ).encode()  # fmt: skip
    line = xxhash.xxh3_128_hexdigest(head).encode() + b" " + head + b"\n"
    store.write(location_of(plan.uri), line + data)


def read_head(plan: Stored) -> Head | None:
    """The first line of a plan file's index; None: there is none that can be used."""
    location = location_of(plan.uri)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        data = store.store_of(location).read_range(location, 0, _HEAD_BYTES)
        line = data[: data.index(b"\n")]
        digest, _, text = line.partition(b" ")
        said = json.loads(text)
        if xxhash.xxh3_128_hexdigest(text).encode() != digest:
            return None
        if said["plan"] != [plan.size, plan.version]:
            return None
        sources = said["sources"]
        return Head(
            location=location, units=said["units"], hashed_by=said["hashed_by"],
            schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(said["schema"]))),
            summary=Summary(
                sources=None if sources is None else tuple(sources),
                first=said["first"], last=said["last"],
            ),
            digest=said["digest"], start=len(line) + 1,
        )  # fmt: skip
    return None


def read_hashes(head: Head, rows: int) -> Hashes | None:
    """The hashes of an index; None: they cannot be used."""
    if head.hashed_by != _library():
        return None
    with contextlib.suppress(OSError):
        size = 16 * rows
        data = store.store_of(head.location).read_range(head.location, head.start, size)
        if len(data) == size and xxhash.xxh3_128_hexdigest(data) == head.digest:
            both = np.frombuffer(data, np.uint64).reshape(2, rows)
            return Hashes(uris=both[0], versions=both[1])
    return None


class HashSet:
    """Some uint64 hashes, and which of others are among them."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.ordered = np.sort(hashes)
        # A table of the first bits of all leaves out most of what is not among them: few of its
        # places are taken, and looking there is cheaper than a search.
        bits = min(max(len(hashes).bit_length() + 3, _LEAST_BITS), _MOST_BITS)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        for start in range(0, len(hashes), _AT_ONCE):
            self._table[self.ordered[start : start + _AT_ONCE] >> self._shift] = True

    @property
    def repeated(self) -> np.ndarray:
        """uint64: those that there are more than once."""
        again: np.ndarray = self.ordered[1:][self.ordered[1:] == self.ordered[:-1]]
        return again

    def has(self, values: np.ndarray, asked: np.ndarray | None = None) -> np.ndarray:
        """bool [N]: which of these uint64 values are there; `asked`, bool [N]: of these alone."""
        found = np.zeros(len(values), bool)
        if not len(self.ordered):
            return found
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            likely = self._table[some >> self._shift]
            if asked is not None:
                likely &= asked[start : start + _AT_ONCE]
            at = np.flatnonzero(likely)
            at = at[np.argsort(some[at])]  # neighbours of a neighbour are in the cache
            near = np.searchsorted(self.ordered, some[at])
            near[near == len(self.ordered)] = 0
            found[start + at] = self.ordered[near] == some[at]
        return found


def _library() -> str:
    import duckdb

    return f"duckdb {duckdb.__version__}"


@functools.cache
def _connection() -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect()
