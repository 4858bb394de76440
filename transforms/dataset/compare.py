"""A listing compared with the plan: what is new, known, changed, moved, listed twice, or gone.

DuckDB joins the two out of core: neither the listing nor the plan has to fit into memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import tempfile
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from imagecensus.model_export.common.sql import quote_name
from imagecensus.transforms.dataset import raw_pairs
from imagecensus.transforms.dataset.work_plan import Plan, PlanFile
from imagecensus.transforms.records import (
    CHECKSUM_COLUMN,
    LISTED_COLUMNS,
    REF_COLUMNS,
    SOURCE_COLUMN,
)
from imagecensus.transforms.storage import store

MEMORY_LIMIT = "2GB"
# What a listed image is. An absent one is named by a list, is known, and is not there any more; an
# updated one is known, and its uri or the values that its list passes through are others now.
NEW, KNOWN, CHANGED, DUPLICATE, ABSENT, UPDATED = range(6)
_BATCH = 1 << 17
# Of a passthrough column: the image's list has it, has it not, or it is found out here.
_GIVEN, _NOT_GIVEN, _FOUND = "102"
_QUOTE = "'"
_OF_A_MOVE = ("n", "file", "row", "new")
_FAILED = '["failed"%'
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

    `member`: where it is in an archive, None: a file of its own. `told`: the store's listing says
    that the bytes are the same.
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
    told: bool


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
        self, plan: Plan, schema: pa.Schema, relocate: tuple[str, str] | None = None
    ) -> None:
        """Args:
        plan: what is known.
        schema: `REF_SCHEMA`, passthrough columns, and `LISTED_COLUMNS`.
        relocate: images under the first uri are looked for under the second one.
        """
        self._plan, self.schema, self._relocate = plan, schema, relocate
        passed = [f.name for f in schema if f.name not in (*REF_COLUMNS, *LISTED_COLUMNS)]
        # Lists may name a column as SQL or this module does: here they are numbered.
        self._passed = {name: f"c{number}" for number, name in enumerate(passed)}
        names = [self._passed.get(name, name) for name in schema.names]
        self._names = [*names, "given"]
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Comparison:
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="imagecensus-"))
        self._scratch = scratch
        self._db = duckdb.connect(
            config={"memory_limit": MEMORY_LIMIT, "temp_directory": os.path.join(scratch, "spill")}
        )
        self._stack.callback(self._db.close)
        nothing = self.schema.empty_table().append_column("given", pa.array([], pa.string()))
        self._db.register("nothing", nothing.rename_columns(self._names))
        self._db.execute("CREATE TABLE listed AS SELECT * FROM nothing")
        self._db.execute("CREATE TABLE beside (uri VARCHAR)")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, batch: pa.RecordBatch, given: Container[str] | None = None) -> None:
        """Takes a batch of the listing; `given`: which passthrough columns its list has."""
        flags = "".join(self._flag(name, given) for name in self._passed)
        table = pa.Table.from_batches([batch], self.schema)
        table = table.append_column("given", pa.repeat(pa.scalar(flags), batch.num_rows))
        self._waiting.append(table.rename_columns(self._names))
        self._rows += batch.num_rows
        if sum(waiting.num_rows for waiting in self._waiting) >= _BATCH:
            self._insert()

    def _flag(self, name: str, given: Container[str] | None) -> str:
        if given is None or name in given:
            return _GIVEN
        return _FOUND if name == raw_pairs.COLUMN else _NOT_GIVEN

    def add_beside(self, uris: pa.Array) -> None:
        """Takes the uris of images that belong to other shards: a raw here may be one's pair."""
        if raw_pairs.COLUMN in self._passed and len(uris):
            self._db.register("others", pa.table({"uri": uris}))
            self._db.execute("INSERT INTO beside SELECT uri FROM others")

    def _insert(self) -> None:
        if self._waiting:
            self._db.register("batch", pa.concat_tables(self._waiting))
            self._db.execute("INSERT INTO listed SELECT * FROM batch")
            self._waiting = []

    def judge(self, whole: tuple[str, ...] | None) -> Compared:
        """Compares.

        Args:
          whole: what was listed to its end: inputs, and folders of which each image was listed.
            None: the listing was cut, nothing can be called gone.
        """
        self._insert()
        self._verdict = np.full(self._rows, NEW, np.uint8)
        pairs = self._mark_raw_pairs()
        self._make_planned()
        self._db.execute(
            "CREATE TABLE twice AS SELECT l.rowid AS n FROM listed l JOIN (SELECT uri,"
            " min(rowid) AS first FROM listed GROUP BY uri HAVING count(*) > 1) d"
            " ON l.uri = d.uri AND l.rowid <> d.first"
        )
        self._db.execute(
            f"CREATE TABLE met AS SELECT n, file, row, uri, CASE WHEN state = {KNOWN} AND other"
            f" THEN {UPDATED} ELSE state END AS state FROM (SELECT l.rowid AS n, p.file, p.row,"
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
        base = "regexp_extract(coalesce({0}.container, {0}.uri), '[^/]*$')".format
        inside = "substr({0}.uri, length({0}.container) + 1)".format
        pairs = " UNION ".join(
            f"""SELECT f.rowid AS n, l.file, l.row, l.uri AS old, f.uri AS new,
              l.container AS old_container, f.container, f.member, f.size,
              f.etag_or_mtime AS version,
              (f."{CHECKSUM_COLUMN}" = l."{CHECKSUM_COLUMN}") IS TRUE AS told,
              {base("l")} = {base("f")} AS alike
            FROM f JOIN l ON f.size = l.size AND f.member IS NOT DISTINCT FROM l.member
              AND {inside("f")} IS NOT DISTINCT FROM {inside("l")} AND f."{same}" = l."{same}"
            WHERE f."{same}" <> '' AND (f.size > 0 OR f.container IS NOT NULL)
              AND f.uri IS DISTINCT FROM f.container AND f.rowid NOT IN (SELECT n FROM twice)"""
            for same in ("etag_or_mtime", CHECKSUM_COLUMN)
        )
        found = self._db.execute(
            f"""WITH f AS (SELECT rowid, * FROM listed ANTI JOIN planned USING (uri)),
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
            if used.isdisjoint(((move.file, move.row), move.n)):
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

    def _mark_raw_pairs(self) -> int:
        if raw_pairs.COLUMN not in self._passed:
            return 0
        number = list(self._passed).index(raw_pairs.COLUMN) + 1
        column = self._passed[raw_pairs.COLUMN]
        return raw_pairs.mark_pairs(self._db, column, f"substr(given, {number}, 1) = '{_FOUND}'")

    def _other(self) -> str:
        """SQL: whether a value that the list passes through is another one than in the plan."""
        tests = [
            f"(substr(l.given, {number}, 1) <> '{_NOT_GIVEN}'"
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

    def _make_planned(self) -> None:
        """The table `planned`: the references of the plan in their present revision."""
        files = self._plan.files
        paths = [self._local(file) for file in files]
        self._db.execute("CREATE TABLE later (file BIGINT, row BIGINT)")
        self._db.execute("CREATE TABLE names (name VARCHAR, file BIGINT)")
        # Plans of versions before 0.2 do not have all the columns.
        self._db.register("like", self.schema.empty_table())
        places = ("uri", "container", SOURCE_COLUMN)
        sources = {
            name: _moved_sql(quote_name(name), self._relocate if name in places else None)
            for name in self.schema.names
        }
        columns = ", ".join(
            f"{sql} AS {quote_name(self._passed.get(name, name))}" for name, sql in sources.items()
        )
        if not files:
            self._db.execute(
                f"CREATE VIEW planned AS SELECT {columns}, r.uri AS was, 0::BIGINT AS file,"
                ' 0::BIGINT AS row FROM "like" r'
            )
            return
        for number, file in enumerate(files):
            later = np.repeat(self._plan.superseded(file), [unit.rows for unit in file.units])
            rows = np.flatnonzero(later)
            if len(rows):
                self._db.register("gaps", pa.table({"row": rows}))
                self._db.execute(f"INSERT INTO later SELECT {number}, row FROM gaps")
        numbered = [(path, number) for number, path in enumerate(paths)]
        self._db.executemany("INSERT INTO names VALUES (?, ?)", numbered)
        here = ", ".join("'" + glob.escape(path).replace("'", "''") + "'" for path in paths)
        self._db.execute(
            f"CREATE VIEW known AS SELECT {columns}, r.uri AS was, n.file, "
            ' r."imagecensus.row" AS row FROM (SELECT * EXCLUDE (file_row_number),'
            ' file_row_number AS "imagecensus.row" FROM'
            f" read_parquet([{here}], union_by_name=true, filename='imagecensus.file',"
            ' file_row_number=true) UNION ALL BY NAME SELECT * FROM "like") r'
            ' JOIN names n ON n.name = r."imagecensus.file"'
            ' ANTI JOIN later s ON s.file = n.file AND s.row = r."imagecensus.row"'
        )
        # Where an image was classified under its new uri already, that row stays.
        self._db.execute(
            "CREATE TABLE replaced AS SELECT file, row FROM known WHERE uri <> was AND uri IN"
            " (SELECT uri FROM known WHERE uri = was)"
            if self._relocate
            else "CREATE TABLE replaced (file BIGINT, row BIGINT)"
        )
        self._db.execute(
            "CREATE VIEW planned AS SELECT * FROM known ANTI JOIN replaced USING (file, row)"
        )

    def _local(self, file: PlanFile) -> str:
        if not store.is_bucket(file.location):
            return file.location
        path = os.path.join(self._scratch, os.path.basename(file.location))
        with open(path, "wb") as copy:
            copy.write(store.read(file.location))
        return path

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
        at = 0
        ordered = self._db.sql("SELECT * EXCLUDE (given) FROM listed ORDER BY rowid")
        for batch in ordered.to_arrow_reader(_BATCH):
            mine = self._verdict[at : at + batch.num_rows] == NEW
            at += batch.num_rows
            if mine.any():
                yield batch.filter(pa.array(mine)).rename_columns(self.schema.names)

    def edits(self, number: int, drop_gone: bool) -> dict[int, Edit | None]:
        """What becomes of the rows of one plan file: row → its new values, or None: it goes."""
        found: dict[int, Edit | None] = {}
        if self._relocate:
            moved = self._db.sql(
                f'SELECT row, uri, container, "{SOURCE_COLUMN}" FROM planned'
                f" WHERE file = {number} AND uri <> was"
            )
            for row in moved.to_arrow_table().to_pylist():
                found[row.pop("row")] = Edit(values=row, again=False)
        states = f"{CHANGED}, {UPDATED}" + (f", {ABSENT}" if drop_gone else "")
        others = self._db.sql(
            "SELECT m.row AS at_row, m.state, l.* FROM met m JOIN listed l ON l.rowid = m.n"
            f" WHERE m.file = {number} AND m.state IN ({states})"
        )
        for row in others.to_arrow_table().to_pylist():
            at, state, given = row.pop("at_row"), row.pop("state"), row.pop("given")
            if state == ABSENT:
                found[at] = None
                continue
            values = {name: row[name] for name in (*REF_COLUMNS, *LISTED_COLUMNS)}
            passed = zip(self._passed.items(), given, strict=True)
            values |= {name: row[column] for (name, column), flag in passed if flag != _NOT_GIVEN}
            found[at] = Edit(values=values, again=state == CHANGED)
        for row in self._rows_that_go(number, drop_gone):
            found[row] = None
        return found

    def _rows_that_go(self, number: int, drop_gone: bool) -> list[int]:
        tables = self._texts("SELECT table_name FROM duckdb_tables()")
        sql = []
        if "gone" in tables:
            sql.append(f"SELECT row FROM gone WHERE file = {number} AND (failure OR {drop_gone})")
        if "replaced" in tables:
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
