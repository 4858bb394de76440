"""A listing compared with the plan: what is new, known, changed, listed twice, or gone.

DuckDB joins the two out of core: neither the listing nor the plan has to fit into memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import tempfile
from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

from imagecensus.transforms.dataset.work_plan import Plan, PlanFile
from imagecensus.transforms.records import REF_COLUMNS, REF_SCHEMA, SOURCE_COLUMN
from imagecensus.transforms.storage import store

MEMORY_LIMIT = "2GB"
# What a listed image is. An absent one is named by a list, is known, and is not there any more.
NEW, KNOWN, CHANGED, DUPLICATE, ABSENT = range(5)
_BATCH = 1 << 17
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
class Compared:
    """`listed` = new + `known` + `changed` + `duplicates`, and what was not listed any more.

    Attributes:
      unlisted: uris that could not be listed: folders, archives.
      gone: known images of the inputs that were not listed now.
    """

    listed: int
    known: int
    changed: int
    duplicates: int
    unlisted: tuple[str, ...]
    gone: tuple[str, ...]


class Comparison:
    """Gathers a listing, then compares it with the plan. Used as a context manager."""

    def __init__(self, plan: Plan, schema: pa.Schema):
        """`schema`: `REF_SCHEMA`, passthrough columns, and `SOURCE_COLUMN`."""
        self._plan, self.schema = plan, schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Comparison:
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="imagecensus-"))
        self._scratch = scratch
        self._db = duckdb.connect(
            config={"memory_limit": MEMORY_LIMIT, "temp_directory": os.path.join(scratch, "spill")}
        )
        self._stack.callback(self._db.close)
        self._db.register("nothing", self.schema.empty_table())
        self._db.execute("CREATE TABLE listed AS SELECT * FROM nothing")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Takes a batch of the listing."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if sum(waiting.num_rows for waiting in self._waiting) >= _BATCH:
            self._insert()

    def _insert(self) -> None:
        if self._waiting:
            self._db.register("batch", pa.Table.from_batches(self._waiting, self.schema))
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
        self._make_planned()
        self._db.execute(
            f"CREATE TABLE met AS SELECT l.rowid AS n, p.file, p.row, {_STATE} AS state, p.uri"
            " FROM listed l JOIN planned p USING (uri)"
        )
        found = self._db.execute("SELECT n, state FROM met").fetchnumpy()
        self._verdict[found["n"]] = found["state"]
        twice = self._db.execute(
            "SELECT l.rowid AS n FROM listed l JOIN (SELECT uri, min(rowid) AS first FROM listed"
            " GROUP BY uri HAVING count(*) > 1) d ON l.uri = d.uri AND l.rowid <> d.first"
        ).fetchnumpy()["n"]
        self._verdict[twice] = DUPLICATE
        counts = np.bincount(self._verdict, minlength=5)
        unlisted = self._texts(
            f"SELECT DISTINCT uri FROM listed WHERE uri = container AND member LIKE '{_FAILED}'"
        )
        absent = self._texts(f"SELECT DISTINCT uri FROM met WHERE state = {ABSENT} ORDER BY uri")
        gone = self._find_gone(whole, unlisted) if whole is not None else ()
        return Compared(
            listed=self._rows, known=int(counts[KNOWN] + counts[ABSENT]),
            changed=int(counts[CHANGED]), duplicates=int(counts[DUPLICATE]),
            unlisted=unlisted, gone=gone + absent,
        )  # fmt: skip

    def _texts(self, sql: str, *parameters: object) -> tuple[str, ...]:
        return tuple(row[0] for row in self._db.execute(sql, list(parameters)).fetchall())

    def _make_planned(self) -> None:
        """The table `planned`: the references of the plan in their present revision."""
        files = self._plan.files
        paths = [self._local(file) for file in files]
        self._db.execute("CREATE TABLE later (file BIGINT, row BIGINT)")
        wanted = [*REF_SCHEMA, pa.field(SOURCE_COLUMN, pa.string())]
        if not files:
            self._db.register("none", pa.schema(wanted).empty_table())
            self._db.execute(
                "CREATE VIEW planned AS SELECT *, 0::BIGINT AS file, 0::BIGINT AS row FROM none"
            )
            return
        for number, file in enumerate(files):
            later = np.repeat(self._plan.superseded(file), [unit.rows for unit in file.units])
            rows = np.flatnonzero(later)
            if len(rows):
                self._db.register("gaps", pa.table({"row": rows}))
                self._db.execute(f"INSERT INTO later SELECT {number}, row FROM gaps")
        # Plans of versions before 0.2 do not have all the columns.
        self._db.register("like", pa.schema(wanted).empty_table())
        self._db.execute("CREATE TABLE names (name VARCHAR, file BIGINT)")
        numbered = [(path, number) for number, path in enumerate(paths)]
        self._db.executemany("INSERT INTO names VALUES (?, ?)", numbered)
        columns = ", ".join(f'"{field.name}"' for field in wanted)
        here = ", ".join("'" + glob.escape(path).replace("'", "''") + "'" for path in paths)
        self._db.execute(
            f"CREATE VIEW planned AS SELECT {columns}, n.file, file_row_number AS row FROM"
            f" (SELECT * FROM read_parquet([{here}], union_by_name=true, filename=true,"
            ' file_row_number=true) UNION ALL BY NAME SELECT * FROM "like") r'
            " JOIN names n ON n.name = r.filename"
            " ANTI JOIN later s ON s.file = n.file AND s.row = r.file_row_number"
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
        self._db.execute("CREATE TABLE whole (uri VARCHAR)")
        if whole:
            self._db.executemany("INSERT INTO whole VALUES (?)", [(text,) for text in whole])
        self._db.execute("CREATE TABLE unknown (uri VARCHAR)")
        if unlisted:
            self._db.executemany("INSERT INTO unknown VALUES (?)", [(uri,) for uri in unlisted])
        self._db.execute(
            f"""CREATE TABLE gone AS SELECT p.uri, p.file, p.row,
              (p.uri = p.container AND p.member LIKE '{_FAILED}') IS TRUE AS failure
            FROM planned p ANTI JOIN listed l USING (uri)
            WHERE ("{SOURCE_COLUMN}" IN (SELECT uri FROM whole)
                OR EXISTS (SELECT 1 FROM whole w WHERE p.uri = w.uri
                    OR starts_with(p.uri, rtrim(w.uri, '/') || '/')
                    OR starts_with(p.uri, w.uri || '#')))
              AND NOT EXISTS (SELECT 1 FROM unknown u WHERE p.uri = u.uri
                  OR starts_with(p.uri, u.uri || '/') OR starts_with(p.uri, u.uri || '#'))"""
        )
        return self._texts("SELECT uri FROM gone WHERE NOT failure ORDER BY uri")

    def new(self) -> Iterator[pa.RecordBatch]:
        """The new references in the order of the listing, with the columns of the schema."""
        at = 0
        reader = self._db.sql("SELECT * FROM listed ORDER BY rowid").to_arrow_reader(_BATCH)
        for batch in reader:
            mine = self._verdict[at : at + batch.num_rows] == NEW
            at += batch.num_rows
            if mine.any():
                yield batch.filter(pa.array(mine))

    def edits(self, number: int, drop_gone: bool) -> dict[int, dict | None]:
        """What became of the rows of one plan file: row → its new reference, or None: it goes."""
        again = f"{CHANGED}, {ABSENT}" if drop_gone else f"{CHANGED}"
        changed = self._db.sql(
            "SELECT m.row AS at_row, l.* FROM met m JOIN listed l ON l.rowid = m.n"
            f" WHERE m.file = {number} AND m.state IN ({again})"
        ).to_arrow_table()
        found: dict[int, dict | None] = {
            row.pop("at_row"): {name: row[name] for name in (*REF_COLUMNS, *self._passed)}
            for row in reversed(changed.to_pylist())
        }
        if self._has_gone():
            rows = self._db.execute(
                "SELECT row FROM gone WHERE file = ? AND (failure OR ?)", [number, drop_gone]
            ).fetchall()
            found |= {row: None for (row,) in rows}
        return found

    @property
    def _passed(self) -> list[str]:
        return [n for n in self.schema.names if n not in REF_COLUMNS and n != SOURCE_COLUMN]

    def _has_gone(self) -> bool:
        return bool(self._texts("SELECT table_name FROM duckdb_tables() WHERE table_name = 'gone'"))
