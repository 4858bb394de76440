"""Camera raw beside the JPEG or HEIC of the same shot: `IMG_1.CR2` and `IMG_1.JPG`.

That is told by names alone: both are in one folder, or archive, and are named alike up to the last
dot. The listing is in DuckDB already, so that their order in it does not matter.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

COLUMN = "raw_of"  # of the raw: the uri of the other one
_RAW = """
    3fr arw cr2 cr3 crw dcr dng erf gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl rwz
    sr2 srf srw x3f
"""
_RAW_NAME = rf"(?i)\.({'|'.join(_RAW.split())})$"
_IMAGE_NAME = r"(?i)\.(jpe?g|jpe|jfif|heic|heif|hif)$"
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


def mark_pairs(db: duckdb.DuckDBPyConnection, column: str, may_mark: str) -> int:
    """Writes into each raw of the table `listed` which image of the tables it is a pair with.

    Args:
      db: has the tables `listed` and `beside`, of images that others classify, with their `uri`.
      column: of `listed` that is written.
      may_mark: SQL of the rows whose list has no such column.

    Returns: how many images are such raws.
    """
    db.execute(
        f"CREATE TABLE raws AS SELECT rowid AS n, {_STEM.format('uri')} AS stem FROM listed"
        f" WHERE regexp_matches(uri, '{_RAW_NAME}') AND {may_mark}"
    )
    if not db.execute("SELECT count(*) FROM raws").fetchall()[0][0]:
        return 0
    db.execute(
        "CREATE TABLE pairs AS SELECT r.n, min(i.uri) AS uri FROM raws r"
        " JOIN (SELECT uri FROM listed UNION ALL SELECT uri FROM beside) i"
        f" ON r.stem = {_STEM.format('i.uri')}"
        f" WHERE regexp_matches(i.uri, '{_IMAGE_NAME}') GROUP BY r.n"
    )
    db.execute(f"UPDATE listed SET {column} = p.uri FROM pairs p WHERE listed.rowid = p.n")
    found = db.execute(f"SELECT count(DISTINCT uri) FROM listed WHERE {column} IS NOT NULL")
    return int(found.fetchall()[0][0])
