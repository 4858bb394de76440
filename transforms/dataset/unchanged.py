"""Rows of the plan that are listed as they are in it: nearly all of a rerun.

They are compared as they lie, a batch of the listing and a file of the plan at a time, so that
memory does not grow with what is known. That goes where both are in about the same order, as the
listings of two runs are; the rows that lie elsewhere are left to the comparison of all with all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.transforms.dataset.listing_spool import NOT_GIVEN
from imagecensus.transforms.dataset.plan_index import Hashes, HashSet
from imagecensus.transforms.dataset.work_plan import PlanFile, read_some_rows
from imagecensus.transforms.records import LISTED_COLUMNS, REF_COLUMNS

_LEAST_ROWS = 8192  # of a plan file in one batch of the listing; fewer are not worth reading both
_ROWS_AT_ONCE = 32_768
_COMPARED = ("uri", "size", "etag_or_mtime", "member")


class UnchangedRows:
    """Finds such rows, one plan file after the other.

    Attributes:
      listed: bool [rows of the listing]: which were found.
    """

    def __init__(
        self, uris: np.ndarray, ordered: HashSet, failures: np.ndarray, *, size: int,
        schema: pa.Schema, read: Callable[[int], pa.RecordBatch],
    ) -> None:  # fmt: skip
        """Args:
        uris: uint64 [N]: hashes of the listed uris.
        ordered: the same as a set.
        failures: bool [N]: which rows are no images, but what could not be listed.
        size: rows of a batch of the listing.
        schema: what is compared: `REF_SCHEMA` and columns of lists, by their names in the plan.
        read: a batch by its number, with a column `given`, see `Comparison`; its columns are in the
          order of the schema.
        """
        self.listed = np.zeros(len(uris), bool)
        self._uris, self._ordered = uris, ordered.ordered
        self._others = failures | HashSet(ordered.repeated).has(uris)
        self._size, self._columns = size, {name: at for at, name in enumerate(schema.names)}
        self._passed = [n for n in schema.names if n not in (*REF_COLUMNS, *LISTED_COLUMNS)]
        self._compared = pa.schema([schema.field(n) for n in (*_COMPARED, *self._passed)])
        self._read = functools.lru_cache(maxsize=1)(read)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        """int [N]: which row each of the ordered hashes is of."""
        order = np.argsort(self._uris)
        return order.astype(np.uint32) if len(order) < 1 << 32 else order

    def find(self, file: PlanFile, known: Hashes, asked: np.ndarray) -> np.ndarray:
        """bool [rows of the file]: which of the rows that are asked for are listed as they are.

        Args:
          file: of the plan.
          known: its hashes.
          asked: bool [rows of the file]: present rows whose uri is listed, as its hash says.
        """
        found = np.zeros(len(known), bool)
        rows = np.flatnonzero(asked)
        if len(rows) < _LEAST_ROWS:
            return found
        listed = self._order[np.searchsorted(self._ordered, known.uris[rows])].astype(np.int64)
        fit = ~(self._others[listed] | self.listed[listed])
        rows, listed = rows[fit], listed[fit]
        batches = listed // self._size
        fit = (np.bincount(batches, minlength=1) >= _LEAST_ROWS)[batches]
        rows, listed, batches = rows[fit], listed[fit], batches[fit]
        if not len(rows):
            return found
        pieces = [
            piece
            for number in np.unique(batches)
            for piece in _pieces(np.flatnonzero(batches == number))
        ]
        tables = read_some_rows(file, (rows[piece] for piece in pieces), self._compared)
        for piece, planned in zip(pieces, tables, strict=True):
            number = int(batches[piece[0]])
            beside = self._read(number).take(pa.array(listed[piece] - number * self._size))
            same = piece[self._same(planned, beside)]
            _, first = np.unique(listed[same], return_index=True)
            same = same[first]
            same = same[~self.listed[listed[same]]]
            found[rows[same]] = True
            self.listed[listed[same]] = True
        return found

    def _same(self, planned: pa.Table, batch: pa.RecordBatch) -> np.ndarray:
        """bool [rows]: which rows of the plan are the same as those of the listing beside them."""
        same = np.ones(batch.num_rows, bool)
        for name in self._compared.names:
            ours, theirs = planned.column(name), batch.column(self._columns[name])
            if ours.type != theirs.type or _is_packed(ours.type):
                return np.zeros(batch.num_rows, bool)
            equal = _equal(ours, theirs)
            if name in self._passed and not equal.all():
                at = self._passed.index(name)
                flags = pc.utf8_slice_codeunits(batch.column("given"), at, at + 1)
                equal |= np.asarray(pc.equal(flags, NOT_GIVEN))
            same &= equal
        return same


def _pieces(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]


def _is_packed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_dictionary(kind))


def _equal(one: pa.ChunkedArray, other: pa.Array) -> np.ndarray:
    """bool [N]: which values are equal, or both null."""
    nulls = pc.and_(pc.is_null(one), pc.is_null(other))
    return np.asarray(pc.or_(pc.fill_null(pc.equal(one, other), False), nulls))
