"""Camera raw beside the JPEG or HEIC of the same shot: `IMG_1.CR2` and `IMG_1.JPG`.

Names alone decide: both are in one folder, or archive, and are named alike up to the last
dot. Their order in the listing does not matter: it is gone through again where there are raws.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

COLUMN = "raw_of"  # of the raw: the uri of the other one
_RAW = """
    3fr arw cr2 cr3 crw dcr dng erf gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl rwz
    sr2 srf srw x3f
"""
# The last four bytes of such a name, as one number, with the bit of lower case in each.
_LOWER = np.uint32(0x20202020)
_RAW_CODES = np.frombuffer("".join("." + ending for ending in _RAW.split()).encode(), "<u4")
_IMAGES = "jpg jpeg jpe jfif heic heif hif"
_STEM = r"regexp_replace({}, '\.[^.]*$', '')"


def with_column(passthrough: pa.Schema, present: dict[str, str] | None) -> pa.Schema:
    """The columns that go along with images, `COLUMN` first; but where a list has one of the name.

    `present`: the columns of the dataset, which goes on without it where it was begun so; None:
    it is new.
    """
    theirs = {name.casefold() for name in passthrough.names}
    if COLUMN in theirs or (present is not None and COLUMN not in present):
        return passthrough
    return pa.schema([pa.field(COLUMN, pa.string()), *passthrough])


class RawPairs:
    """The pairs of a listing that comes in batches; keeps the names of raws alone."""

    def __init__(self, db: duckdb.DuckDBPyConnection, column: str, may_mark: str) -> None:
        """Args:
        db: gets tables of names.
        column: of the listing, which is filled in.
        may_mark: SQL of the rows whose list has no such column.
        """
        self._db, self._column, self._may_mark = db, column, may_mark
        self._raws = np.empty(0, np.int64)  # rows of the listing
        self._images: list[str] = []  # the pair of each
        db.execute("CREATE TABLE raws (n BIGINT, uri VARCHAR, stem VARCHAR)")
        db.execute("CREATE TABLE beside (stem VARCHAR, uri VARCHAR)")

    def add(self, rows: pa.Table, first: int) -> None:
        """Takes a batch of the listing, whose first row is number `first`."""
        at = np.flatnonzero(_may_be_raw(rows.column("uri").combine_chunks()))
        if not len(at):
            return
        self._db.register("batch", rows.take(pa.array(at)).append_column("n", pa.array(at)))
        self._db.execute(
            f"INSERT INTO raws SELECT n + {first}, uri, {_STEM.format('uri')} FROM batch"
            f" WHERE {_named(_RAW)} AND {self._may_mark}"
        )

    def add_beside(self, uris: pa.Array) -> None:
        """Takes the uris of images that others classify."""
        self._db.register("batch", pa.table({"uri": uris}))
        self._db.execute(
            f"INSERT INTO beside SELECT {_STEM.format('uri')}, uri FROM batch"
            f" WHERE {_named(_IMAGES)}"
        )

    def find(self, listing: Iterable[pa.RecordBatch]) -> int:
        """Goes through the listing again; returns how many images are raws with a pair."""
        if not self._db.execute("SELECT count(*) FROM raws").fetchall()[0][0]:
            return 0
        for rows in listing:
            self._db.register("batch", rows)
            self._db.execute(
                f"INSERT INTO beside SELECT * FROM (SELECT {_STEM.format('uri')} AS stem, uri"
                f" FROM batch WHERE {_named(_IMAGES)}) SEMI JOIN raws USING (stem)"
            )
        found = self._db.execute(
            "SELECT r.n, min(b.uri) AS image, r.uri FROM raws r JOIN beside b USING (stem)"
            " GROUP BY r.n, r.uri ORDER BY r.n"
        ).fetchall()
        self._raws = np.array([n for n, _, _ in found], np.int64)
        self._images = [image for _, image, _ in found]
        return len({uri for _, _, uri in found})

    def fill(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """A batch of the listing with the pairs of its raws."""
        start, end = np.searchsorted(self._raws, [first, first + batch.num_rows])
        if start == end:
            return batch
        at = batch.schema.get_field_index(self._column)
        values = batch.column(at).to_pylist()
        for raw, image in zip(self._raws[start:end], self._images[start:end], strict=True):
            values[raw - first] = image
        return batch.set_column(at, batch.schema.field(at), pa.array(values, pa.string()))


def _may_be_raw(uris: pa.StringArray) -> np.ndarray:
    """bool [N]: which names may end as those of raws; `_named` decides, at ten times the cost."""
    _, ends, text = uris.buffers()
    if text is None or text.size < 4:
        return np.zeros(len(uris), bool)
    stops = np.frombuffer(ends, np.int32)[uris.offset + 1 : uris.offset + len(uris) + 1]
    # Each four bytes of the text, at every place of it.
    words = np.ndarray(text.size - 3, "<u4", text, strides=(1,))
    return np.isin(words[np.maximum(stops, 4) - 4] | _LOWER, _RAW_CODES)


def _named(endings: str) -> str:
    """SQL: whether a name ends in one of these, after a dot."""
    lengths = sorted({len(ending) for ending in endings.split()})
    return "(" + " OR ".join(
        f"lower(right(uri, {size + 1})) IN"
        f" ({', '.join(repr('.' + ending) for ending in endings.split() if len(ending) == size)})"
        for size in lengths
    ) + ")"  # fmt: skip
