"""Which names are looked at as those of camera raw."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from imagecensus.transforms.dataset.raw_pairs import RawPairs
from imagecensus.transforms.records import REF_SCHEMA

ENDINGS = """3fr arw cr2 cr3 crw dcr dng erf gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2
    rwl rwz sr2 srf srw x3f"""


def raws_among(uris: pa.Array) -> list[tuple[int, str, str]]:
    database = duckdb.connect()
    pairs = RawPairs(database, "raw_of", "true")
    schema = pa.schema([REF_SCHEMA.field("uri")])
    pairs.add(pa.Table.from_arrays([uris], schema=schema), 100)
    return database.execute("FROM raws ORDER BY n").fetchall()


def test_every_ending_in_any_case():
    names = [f"/a.b/é{number}" for number in range(2 * len(ENDINGS.split()))]
    endings = [ending for raw in ENDINGS.split() for ending in (raw, raw.upper())]
    uris = [f"{name}.{ending}" for name, ending in zip(names, endings, strict=True)]
    assert raws_among(pa.array(uris)) == [
        (100 + n, uri, name) for n, (uri, name) in enumerate(zip(uris, names, strict=True))
    ]


def test_other_names_are_left_out():
    none = ["", "a", "raw", "cr2", "a.jpg", "a.xcr2", "a.cr22", "a\x0ecr2", "a.cr2.jpg"]
    assert not raws_among(pa.array(none))
    assert not raws_among(pa.array(["", "a", "b"]))
    assert raws_among(pa.array(["x.jpg", *none, ".dng"])[1:]) == [(109, ".dng", "")]
