"""The table behind `imagecensus browse`: filtered, ordered, and read a page at a time.

At the start the rows are copied, in order of uri, into a temporary DuckDB file. Each new filter
becomes a numbered list of row ids there, so that any page of a million rows is read at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
from typing import Any

from imagecensus.jobs.results.open_table import Table
from imagecensus.jobs.results.thumbnails import Images

ORDERS = {
    "uri": "id",
    "least certain": "score ASC NULLS LAST, id",
    "most certain": "score DESC NULLS LAST, id",
}
LABELS_LISTED = 2000
PAGE = 500
_SELECTIONS_KEPT = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
    """Which rows, in which order; the defaults are all of them.

    `corrected` is the uris that were corrected, None to take no notice of it.
    """

    text: str = ""
    label: str = ""
    status: str = ""
    low: float = 0.0
    high: float = 1.0
    order: str = "uri"
    corrected: tuple[str, ...] | None = None


class Rows:
    """Rows of a table by position under a filter. Safe to call from several threads."""

    def __init__(self, table: Table, folder: str):
        """Copies the rows into `folder`, a temporary one."""
        self._connection = table.connection
        self.images = Images(table.output)
        path = os.path.join(folder, "rows.duckdb")
        self._connection.execute(f"ATTACH '{path.replace(chr(39), chr(39) * 2)}' AS store")
        without = "EXCLUDE (embedding)" if "embedding" in table.columns else ""
        self._connection.execute(
            f"CREATE TABLE store.rows AS SELECT row_number() OVER (ORDER BY uri) - 1 AS id,"
            f" * {without} FROM predictions ORDER BY id"
        )
        self._lock = threading.Lock()
        self._selections: dict[Filter, tuple[str, int]] = {}
        self._numbers = itertools.count()

    def summarize(self) -> dict[str, Any]:
        """Rows in all, and by status and label, most frequent first."""
        count = "SELECT {0}, count(*) FROM store.rows WHERE {0} IS NOT NULL GROUP BY 1"
        order = f" ORDER BY 2 DESC, 1 LIMIT {LABELS_LISTED}"
        return {
            "rows": self._query("SELECT count(*) FROM store.rows")[0][0],
            "statuses": self._query(count.format("status") + order),
            "labels": self._query(count.format("label") + order),
        }

    def read_page(
        self, chosen: Filter, offset: int, limit: int
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many rows the filter has, and those from position `offset` on."""
        name, total = self._select(chosen)
        rows = self._query(
            f"SELECT r.id, uri, status, label, score FROM store.{name} s JOIN store.rows r USING"
            " (id) WHERE s.position >= ? AND s.position < ? ORDER BY s.position",
            offset,
            offset + min(limit, PAGE),
        )
        names = ("id", "uri", "status", "label", "score")
        return total, [dict(zip(names, row, strict=True)) for row in rows]

    def read_row(self, row_id: int) -> dict[str, Any] | None:
        """All columns of one row; None where there is none of that id."""
        cursor = self._connection.cursor()
        found = cursor.execute("SELECT * FROM store.rows WHERE id = ?", [row_id]).fetchone()
        if found is None:
            return None
        return dict(zip((column[0] for column in cursor.description), found, strict=True))

    def _select(self, chosen: Filter) -> tuple[str, int]:
        """The name of the filter's list of row ids, and its length."""
        with self._lock:
            if chosen not in self._selections:
                name = f"selection_{next(self._numbers)}"
                where, values = _where(chosen)
                self._query(
                    f"CREATE TABLE store.{name} AS SELECT row_number() OVER () - 1 AS position, id"
                    f" FROM (SELECT id FROM store.rows WHERE {where} ORDER BY"
                    f" {ORDERS[chosen.order]}) ORDER BY position",
                    *values,
                )
                total: int = self._query(f"SELECT count(*) FROM store.{name}")[0][0]
                self._selections[chosen] = (name, total)
                if len(self._selections) > _SELECTIONS_KEPT:
                    oldest = next(iter(self._selections))
                    self._query(f"DROP TABLE store.{self._selections.pop(oldest)[0]}")
            self._selections[chosen] = self._selections.pop(chosen)  # the latest used is last
            return self._selections[chosen]

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.cursor().execute(sql, list(values)).fetchall()


def _where(chosen: Filter) -> tuple[str, list[object]]:
    """An SQL condition and its values."""
    terms = ["true"]
    values: list[object] = []
    if chosen.text:
        terms.append("contains(lower(uri), lower(?))")
        values.append(chosen.text)
    for column, value in (("label", chosen.label), ("status", chosen.status)):
        if value:
            terms.append(f"{column} = ?")
            values.append(value)
    # The full range also takes the rows without a score.
    if chosen.low > 0 or chosen.high < 1:
        terms.append("score BETWEEN ?::FLOAT AND ?::FLOAT")
        values += [chosen.low, chosen.high]
    if chosen.corrected is not None:
        terms.append("list_contains(?::VARCHAR[], uri)")
        values.append(list(chosen.corrected))
    return " AND ".join(terms), values
