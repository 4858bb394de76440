"""A listing compared with the plan: what is new, known, changed, moved, listed twice, or gone.

Hashes of uris and versions say which rows of the two may have to do with one another (16 bytes of
memory a listed image). Those that are listed as they were are found by `unchanged`; the others are
read, and DuckDB compares them out of core.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagecensus.model_export.common.sql import quote_name
from imagecensus.transforms.dataset import plan_index, raw_pairs
from imagecensus.transforms.dataset.listing_spool import FOUND, GIVEN, NOT_GIVEN, ListingSpool
from imagecensus.transforms.dataset.plan_index import Hashes, HashSet
from imagecensus.transforms.dataset.raw_pairs import RawPairs
from imagecensus.transforms.dataset.unchanged import UnchangedRows
from imagecensus.transforms.dataset.work_plan import (
    Plan,
    PlanFile,
    read_hashes,
    read_rows,
    units_within,
)
from imagecensus.transforms.records import (
    CHECKSUM_COLUMN,
    LISTED_COLUMNS,
    REF_COLUMNS,
    SOURCE_COLUMN,
)

MEMORY_LIMIT = "1GB"
# What a listed image is. An absent one is named by a list, is known, and is not there any more; an
# updated one is known, and its uri or the values that its list passes through are others now.
NEW, KNOWN, CHANGED, DUPLICATE, ABSENT, UPDATED = range(6)
_BATCH = 1 << 16
_FILES_AT_ONCE = 8  # plan files whose indexes are read ahead
_QUOTE = "'"
_OF_A_MOVE = ("n", "file", "row", "new")
_FAILED_MEMBER = '["failed"'
_FAILED = _FAILED_MEMBER + "%"
# A reference without a version: the file is not there, or nobody has looked (objects of a store).
_STATE = f"""CASE
    WHEN l.member LIKE '{_FAILED}' OR p.member LIKE '{_FAILED}'
        THEN CASE WHEN l.member IS DISTINCT FROM p.member THEN {CHANGED} ELSE {KNOWN} END
    WHEN l.etag_or_mtime = p.etag_or_mtime
        THEN CASE WHEN l.size <> p.size AND l.size >= 0 AND p.size >= 0
            THEN {CHANGED} ELSE {KNOWN} END
    WHEN (l.etag_or_mtime = '' OR p.etag_or_mtime = '')
        AND NOT (l.uri LIKE '/%' OR l.uri LIKE 'file://%') THEN {KNOWN}
    WHEN l.etag_or_mtime = '' THEN {ABSENT}
    ELSE {CHANGED} END"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
    """What a row of the plan becomes.

    Attributes:
      values: new values of some of its columns.
      again: the image is classified again; else its row in the table is taken over.
    """

    values: dict[str, object]
    again: bool


class Move(NamedTuple):
    """A new image that may be one of the plan which is not there any more.

    `member`: where it is in an archive, None: a file of its own. `same_checksum`: by the
    store's listing the bytes are the same.
    """

    n: int  # row of the listing
    file: int
    row: int
    old: str
    new: str
    old_container: str | None
    container: str | None
    member: str | None
    size: int
    version: str
    same_checksum: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """`listed` = new + `known` + `changed` + `duplicates`, and what was not listed any more.

    Attributes:
      updated: of the known ones, those whose passed-through values are others now.
      moved: images of the plan that have another uri now.
      unlisted: uris that could not be listed: folders, archives.
      gone: known images of the inputs that were not listed now.
      judged: whether it was asked what is gone.
      raw_pairs: how many are raw files beside the JPEG or HEIC of the same shot.
    """

    listed: int
    known: int
    changed: int
    updated: int
    moved: int
    duplicates: int
    unlisted: tuple[str, ...]
    gone: tuple[str, ...]
    judged: bool
    raw_pairs: int = 0


class Comparison:
    """Gathers a listing, then compares it with the plan. Used as a context manager."""

    def __init__(
        self, plan: Plan, schema: pa.Schema, relocate: tuple[str, str] | None = None,
        *, keep_indexes: bool = False,
    ) -> None:  # fmt: skip
        """Args:
        plan: what is known.
        schema: `REF_SCHEMA`, passthrough columns, and `LISTED_COLUMNS`.
        relocate: images under the first uri are looked for under the second one.
        keep_indexes: those that plan files lack are written beside them.
        """
        self._plan, self.schema, self._relocate = plan, schema, relocate
        self._keep_indexes = keep_indexes
        passed = [f.name for f in schema if f.name not in (*REF_COLUMNS, *LISTED_COLUMNS)]
        # Lists may name a column as SQL or this module does: here they are numbered.
        self._passed = {name: f"c{number}" for number, name in enumerate(passed)}
        names = [self._passed.get(name, name) for name in schema.names]
        self._names = [*names, "given"]
        self._rows = 0
        self._hashes: list[Hashes] = []
        self._failures: list[np.ndarray] = []
        self._loaded: set[int] = set()  # plan files of which rows were read
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Comparison:
        import duckdb

        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="imagecensus-"))
        nothing = self.schema.empty_table().append_column("given", pa.array([], pa.string()))
        nothing = nothing.rename_columns(self._names)
        self._spool = ListingSpool(os.path.join(scratch, "listing.arrow"), nothing.schema, _BATCH)
        # In a file, as its tables are packed there and those in memory are not.
        self._db = duckdb.connect(
            os.path.join(scratch, "compared.duckdb"),
            config={"memory_limit": MEMORY_LIMIT, "temp_directory": os.path.join(scratch, "spill")},
        )
        self._stack.callback(self._db.close)
        self._db.register("nothing", nothing)
        self._db.execute("CREATE TABLE listed AS SELECT *, 0::BIGINT AS n FROM nothing")
        self._pairs = None
        if raw_pairs.COLUMN in self._passed:
            number = list(self._passed).index(raw_pairs.COLUMN) + 1
            may_mark = f"substr(given, {number}, 1) = '{FOUND}'"
            self._pairs = RawPairs(self._db, self._passed[raw_pairs.COLUMN], may_mark)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, batch: pa.RecordBatch, given: Container[str] | None = None) -> None:
        """Takes a batch of the listing; `given`: which passthrough columns its list has."""
        flags = "".join(self._flag(name, given) for name in self._passed)
        table = pa.Table.from_batches([batch], self.schema)
        table = table.append_column("given", pa.repeat(pa.scalar(flags), batch.num_rows))
        self._rows += batch.num_rows
        for written in self._spool.add(table.rename_columns(self._names)):
            self._note(written)

    def _flag(self, name: str, given: Container[str] | None) -> str:
        if given is None or name in given:
            return GIVEN
        return FOUND if name == raw_pairs.COLUMN else NOT_GIVEN

    def add_beside(self, uris: pa.Array) -> None:
        """Takes the uris of images that belong to other shards: a raw here may be one's pair."""
        if self._pairs and len(uris):
            self._pairs.add_beside(uris)

    def _note(self, rows: pa.Table) -> None:
        """Keeps what says which rows are compared."""
        if self._pairs:
            self._pairs.add(rows, sum(map(len, self._hashes)))
        self._hashes.append(plan_index.hash_rows(rows))
        failed = pc.starts_with(rows.column("member"), _FAILED_MEMBER)
        self._failures.append(np.asarray(pc.fill_null(failed, False)))

    def _read(self, number: int, first: int) -> pa.RecordBatch:
        """A batch of the listing, whose first row is number `first`."""
        batch = self._spool.read(number)
        return self._pairs.fill(batch, first) if self._pairs else batch

    def judge(self, whole: tuple[str, ...] | None) -> Compared:
        """Compares.

        Args:
          whole: what was listed to its end: inputs, and folders of which each image was listed.
            None: the listing was cut, nothing can be called gone.
        """
        for written in self._spool.close():
            self._note(written)
        pairs = 0
        if self._pairs:
            pairs = self._pairs.find(self._spool.read(at) for at, _ in self._spool.batches())
        self._load(whole)
        self._verdict = np.where(self._unchanged.listed, KNOWN, NEW).astype(np.uint8)
        self._db.execute(
            "CREATE TABLE twice AS SELECT l.n FROM listed l JOIN (SELECT uri,"
            " min(n) AS first FROM listed GROUP BY uri HAVING count(*) > 1) d"
            " ON l.uri = d.uri AND l.n <> d.first"
        )
        self._db.execute(
            f"CREATE TABLE met AS SELECT n, file, row, uri, CASE WHEN state = {KNOWN} AND other"
            f" THEN {UPDATED} ELSE state END AS state FROM (SELECT l.n, p.file, p.row,"
            f" p.uri, {_STATE} AS state, {self._other()} AS other"
            " FROM listed l JOIN planned p USING (uri)) WHERE n NOT IN (SELECT n FROM twice)"
        )
        found = self._db.execute("SELECT n, state FROM met").fetchnumpy()
        self._verdict[found["n"]] = found["state"]
        self._verdict[self._db.execute("SELECT n FROM twice").fetchnumpy()["n"]] = DUPLICATE
        counts = np.bincount(self._verdict, minlength=6)
        unlisted = self._texts(
            f"SELECT DISTINCT uri FROM listed WHERE uri = container AND member LIKE '{_FAILED}'"
        )
        absent = self._texts(f"SELECT DISTINCT uri FROM met WHERE state = {ABSENT} ORDER BY uri")
        gone = self._find_gone(whole, unlisted) if whole is not None else ()
        return Compared(
            listed=self._rows, known=int(counts[[KNOWN, ABSENT, UPDATED]].sum()),
            changed=int(counts[CHANGED]), duplicates=int(counts[DUPLICATE]),
            updated=int(counts[UPDATED]), moved=self._moved(), unlisted=unlisted,
            gone=gone + absent, judged=whole is not None, raw_pairs=pairs,
        )  # fmt: skip

    def likely_moves(self) -> list[Move]:
        """New images that have what one of the plan that was not listed had, one to one.

        That is the size, and the version or the store's checksum; of members, their archive's, and
        the same place in it. Where several have the same, their names decide, or the archives'.
        """
        if self._relocate or not self._plan.files:
            return []
        # Rows of one group may be very many: frames of one size that were unpacked within a second.
        # So the rows of a group are paired by rank, never each with each.
        grouped = """SELECT *, regexp_extract(coalesce(container, uri), '[^/]*$') AS base,
              substr(uri, length(container) + 1) AS inside, {same} AS same,
              count(*) OVER (PARTITION BY size, member, inside, same) AS many,
              row_number() OVER (PARTITION BY size, member, inside, same, base ORDER BY uri) AS rank
            FROM {rows} WHERE same <> ''"""
        pairs = " UNION ".join(
            f"""SELECT f.n, l.file, l.row, l.uri AS old, f.uri AS new,
              l.container AS old_container, f.container, f.member, f.size,
              f.etag_or_mtime AS version,
              (f."{CHECKSUM_COLUMN}" = l."{CHECKSUM_COLUMN}") IS TRUE AS same_checksum,
              {alike} AS alike
            FROM ({grouped.format(rows="f", same=same)}) f
            JOIN ({grouped.format(rows="l", same=same)}) l ON f.size = l.size AND f.same = l.same
              AND f.member IS NOT DISTINCT FROM l.member
              AND f.inside IS NOT DISTINCT FROM l.inside AND {condition}"""
            for same in ("etag_or_mtime", f'"{CHECKSUM_COLUMN}"')
            for alike, condition in (
                ("true", "f.base = l.base AND f.rank = l.rank"),
                ("f.base = l.base", "f.many = 1 AND l.many = 1"),
            )
        )
        found = self._db.execute(
            f"""WITH f AS (SELECT * FROM listed ANTI JOIN planned USING (uri)
                WHERE (size > 0 OR container IS NOT NULL) AND uri IS DISTINCT FROM container
                  AND n NOT IN (SELECT n FROM twice)),
              l AS (SELECT * FROM planned ANTI JOIN listed USING (uri)),
              pairs AS ({pairs})
            SELECT * EXCLUDE (alike, there, here) FROM (SELECT *,
              count(*) OVER (PARTITION BY n) AS there,
              count(*) OVER (PARTITION BY file, row) AS here
              FROM pairs)
            WHERE alike OR (here = 1 AND there = 1) ORDER BY alike DESC, n"""
        ).fetchall()
        moves: list[Move] = []
        used: set[tuple[int, int] | int] = set()
        for move in map(Move._make, found):
            free = used.isdisjoint(((move.file, move.row), move.n))
            if free and not self._unchanged.listed[move.n]:
                used |= {(move.file, move.row), move.n}
                moves.append(move)
        return moves

    def take_moves(self, moves: Sequence[Move], compared: Compared) -> Compared:
        """Lets the rows of images that only moved go along with them; returns the counts then."""
        if not moves:
            return compared
        columns = {name: [getattr(move, name) for move in moves] for name in _OF_A_MOVE}
        self._db.register("moves", pa.table(columns))
        self._db.execute(f"INSERT INTO met SELECT n, file, row, new, {UPDATED} FROM moves")
        self._verdict[[move.n for move in moves]] = UPDATED
        self._db.execute(
            "DELETE FROM gone g WHERE EXISTS (SELECT 1 FROM met m WHERE m.file = g.file"
            " AND m.row = g.row)"
            if compared.judged
            else "SELECT 1"
        )
        old = {move.old for move in moves}
        return dataclasses.replace(
            compared,
            known=compared.known + len(moves),
            moved=compared.moved + len(moves),
            gone=tuple(uri for uri in compared.gone if uri not in old),
        )

    def _other(self) -> str:
        """SQL: whether a value that the list passes through is another one than in the plan."""
        tests = [
            f"(substr(l.given, {number}, 1) <> '{NOT_GIVEN}'"
            f" AND CAST(l.{column} AS VARCHAR) IS DISTINCT FROM CAST(p.{column} AS VARCHAR))"
            for number, column in enumerate(self._passed.values(), 1)
        ]
        return " OR ".join(tests) or "false"

    def _moved(self) -> int:
        if not self._relocate:
            return 0
        return int(self._texts("SELECT count(*) FROM planned WHERE uri <> was")[0])

    def _texts(self, sql: str) -> tuple[str, ...]:
        return tuple(row[0] for row in self._db.execute(sql).fetchall())

    def _load(self, whole: tuple[str, ...] | None) -> None:
        """Fills `listed` and `known` with the rows that may have to do with one another.

        These are, but for those that are listed as they are in the plan: listed twice; in the plan;
        there of the same size and version; in the plan, in an input, and not listed. Hashes find
        some more, which the comparison itself leaves out.
        """
        self._make_known()
        empty = np.empty(0, np.uint64)
        uris = np.concatenate([empty, *(some.uris for some in self._hashes)])
        versions = np.concatenate([empty, *(some.versions for some in self._hashes)])
        self._hashes = []
        with ThreadPoolExecutor(2) as pool:
            sets = listed, _ = tuple(pool.map(HashSet, (uris, versions)))
        failures = np.concatenate([np.zeros(0, bool), *self._failures])
        self._unchanged = UnchangedRows(
            uris, listed, failures, size=_BATCH, schema=self.schema,
            read=lambda number: self._read(number, number * _BATCH),
        )  # fmt: skip
        shared, alike = [listed.repeated], [empty]
        for number, file, known, met, like in self._met(*sets):
            within_rows = ~met
            if met.any():
                met &= self._present(file)
                met &= ~self._find_unchanged(file, known, met)
            shared.append(known.uris[met])
            alike.append(known.versions[like])
            if whole is None or not within_rows.any():
                within_rows[:] = False
            else:
                within = units_within(file, whole)
                within_rows &= np.repeat(within, [unit.rows for unit in file.units])
            self._load_known(number, file, met | like | within_rows)
        del listed, sets
        chosen = HashSet(np.concatenate(alike)).has(versions) & ~self._unchanged.listed
        chosen |= failures | HashSet(np.concatenate(shared)).has(uris)
        self._load_listed(chosen | (self._relocate is not None))

    def _find_unchanged(self, file: PlanFile, known: Hashes, met: np.ndarray) -> np.ndarray:
        """bool [rows]: which rows of a plan file are listed as they are there."""
        if self._relocate:
            return np.zeros(len(met), bool)
        return self._unchanged.find(file, known, met)

    def _present(self, file: PlanFile) -> np.ndarray:
        """bool [rows]: which rows of a plan file have no later revision."""
        return ~np.repeat(self._plan.superseded(file), [unit.rows for unit in file.units])

    def _met(
        self, uris: HashSet, versions: HashSet
    ) -> Iterator[tuple[int, PlanFile, Hashes, np.ndarray, np.ndarray]]:
        """Each plan file, its number, the hashes of its rows, and which rows were listed.

        bool [rows]: of which the uri was; of the others, of which the version was.
        """

        def compare(file: PlanFile) -> tuple[Hashes, np.ndarray, np.ndarray]:
            known = read_hashes(file, keep=self._keep_indexes)
            met = uris.has(known.uris)
            return known, met, versions.has(known.versions, ~met & (known.versions != 0))

        files = list(enumerate(self._plan.files))
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            for start in range(0, len(files), _FILES_AT_ONCE):
                some = files[start : start + _FILES_AT_ONCE]
                found = pool.map(lambda one: compare(one[1]), some)
                for (number, file), (known, met, like) in zip(some, found, strict=True):
                    yield number, file, known, met, like

    def _load_listed(self, chosen: np.ndarray) -> None:
        for number, start in self._spool.batches():
            rows = np.flatnonzero(chosen[start : start + _BATCH])
            if len(rows):
                batch = self._read(number, start).take(pa.array(rows))
                self._db.register("batch", batch.append_column("n", pa.array(rows + start)))
                self._db.execute("INSERT INTO listed SELECT * FROM batch")

    def _load_known(self, number: int, file: PlanFile, chosen: np.ndarray) -> None:
        """Reads rows of a plan file in their present revision; all, where images are relocated."""
        chosen |= self._relocate is not None
        if chosen.any():
            chosen &= self._present(file)
        if not chosen.any():
            return
        self._loaded.add(number)
        self._db.register("batch", read_rows(file, np.flatnonzero(chosen), self.schema))
        self._db.execute(
            f"INSERT INTO known SELECT {self._moved_columns()}, r.uri AS was, {number} AS file,"
            ' r."imagecensus.row" AS row FROM batch r'
        )

    def _moved_columns(self) -> str:
        """SQL: the columns of the plan, with the uris that their images have now."""
        places = ("uri", "container", SOURCE_COLUMN)
        return ", ".join(
            f"{_moved_sql(quote_name(name), self._relocate if name in places else None)}"
            f" AS {quote_name(self._passed.get(name, name))}"
            for name in self.schema.names
        )

    def _make_known(self) -> None:
        """The table `known`, and `planned`: what of it counts."""
        self._db.execute(
            "CREATE TABLE known AS SELECT * EXCLUDE (given), uri AS was, 0::BIGINT AS file,"
            " 0::BIGINT AS row FROM nothing"
        )
        # Where an image was classified under its new uri already, that row stays.
        self._db.execute(
            "CREATE VIEW replaced AS SELECT file, row FROM known WHERE uri <> was AND uri IN"
            " (SELECT uri FROM known WHERE uri = was)"
        )
        self._db.execute(
            "CREATE VIEW planned AS SELECT * FROM known ANTI JOIN replaced USING (file, row)"
            if self._relocate
            else "CREATE VIEW planned AS SELECT * FROM known"
        )

    def _find_gone(self, whole: tuple[str, ...], unlisted: tuple[str, ...]) -> tuple[str, ...]:
        """Known images of these inputs that were not listed; what lies in `unlisted` is unknown."""
        within = " OR ".join(_within(f"'{uri.replace(_QUOTE, 2 * _QUOTE)}'") for uri in whole)
        self._db.execute(
            f"""CREATE TABLE gone AS SELECT p.uri, p.file, p.row,
              (p.uri = p.container AND p.member LIKE '{_FAILED}') IS TRUE AS failure
            FROM planned p ANTI JOIN listed l USING (uri) WHERE {within or "false"}"""
        )
        if unlisted:
            self._db.execute("CREATE TABLE unknown (uri VARCHAR)")
            self._db.executemany("INSERT INTO unknown VALUES (?)", [(uri,) for uri in unlisted])
            self._db.execute(
                "DELETE FROM gone p WHERE EXISTS (SELECT 1 FROM unknown u WHERE p.uri = u.uri"
                " OR starts_with(p.uri, u.uri || '/') OR starts_with(p.uri, u.uri || '#'))"
            )
        return self._texts("SELECT uri FROM gone WHERE NOT failure ORDER BY uri")

    def new(self) -> Iterator[pa.RecordBatch]:
        """The new references in the order of the listing, with the columns of the schema."""
        for number, start in self._spool.batches():
            mine = self._verdict[start : start + _BATCH] == NEW
            if mine.any():
                batch = self._read(number, start).filter(pa.array(mine))
                yield batch.select(range(len(self.schema))).rename_columns(self.schema.names)

    def edits(self, number: int, drop_gone: bool) -> dict[int, Edit | None]:
        """What becomes of the rows of one plan file: row → its new values, or None: it goes."""
        found: dict[int, Edit | None] = {}
        if number not in self._loaded:
            return found
        if self._relocate:
            moved = self._db.sql(
                f'SELECT row, uri, container, "{SOURCE_COLUMN}" FROM planned'
                f" WHERE file = {number} AND uri <> was"
            )
            for row in moved.to_arrow_table().to_pylist():
                found[row.pop("row")] = Edit(values=row, again=False)
        states = f"{CHANGED}, {UPDATED}" + (f", {ABSENT}" if drop_gone else "")
        others = self._db.sql(
            "SELECT m.row AS at_row, m.state, l.* EXCLUDE (n) FROM met m JOIN listed l ON l.n = m.n"
            f" WHERE m.file = {number} AND m.state IN ({states})"
        )
        for row in others.to_arrow_table().to_pylist():
            at, state, given = row.pop("at_row"), row.pop("state"), row.pop("given")
            if state == ABSENT:
                found[at] = None
                continue
            values = {name: row[name] for name in (*REF_COLUMNS, *LISTED_COLUMNS)}
            passed = zip(self._passed.items(), given, strict=True)
            values |= {name: row[column] for (name, column), flag in passed if flag != NOT_GIVEN}
            found[at] = Edit(values=values, again=state == CHANGED)
        for row in self._rows_that_go(number, drop_gone):
            found[row] = None
        return found

    def _rows_that_go(self, number: int, drop_gone: bool) -> list[int]:
        tables = self._texts("SELECT table_name FROM duckdb_tables()")
        sql = []
        if "gone" in tables:
            sql.append(f"SELECT row FROM gone WHERE file = {number} AND (failure OR {drop_gone})")
        if self._relocate:
            sql.append(f"SELECT row FROM replaced WHERE file = {number}")
        return (
            [row for (row,) in self._db.execute(" UNION ALL ".join(sql)).fetchall()] if sql else []
        )


def _within(uri: str) -> str:
    """SQL: whether an image of the plan comes from an input, or lies in it."""
    return (
        f"\"{SOURCE_COLUMN}\" = {uri} OR p.uri = {uri} OR starts_with(p.uri, rtrim({uri}, '/')"
        f" || '/') OR starts_with(p.uri, {uri} || '#')"
    )


def _moved_sql(column: str, relocate: tuple[str, str] | None) -> str:
    """SQL: the uri of a column of the plan, where its images are now."""
    if not relocate:
        return f"r.{column}"
    old, new = (text.rstrip("/").replace("'", "''") for text in relocate)
    return (
        f"CASE WHEN r.{column} = '{old}' OR starts_with(r.{column}, '{old}/')"
        f" OR starts_with(r.{column}, '{old}#') THEN '{new}' ||"
        f" substr(r.{column}, {len(relocate[0].rstrip('/')) + 1}) ELSE r.{column} END"
    )
