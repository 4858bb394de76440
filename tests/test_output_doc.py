"""The queries of docs/output.md run as printed, and agree; its tables name what the code has."""

import pathlib
import re

import duckdb
import pandas as pd
import polars as pl
import pytest
from tables import row, write_table

from imagecensus.transforms.records import FACT_TYPES, OUTPUT_COLUMNS, Status

DOC = (pathlib.Path(__file__).parents[1] / "docs" / "output.md").read_text("utf-8")


def block(title: str, language: str) -> str:
    """The first code block after a line that starts with `title`."""
    return re.search(rf"^{title}.*?```{language}\n(.*?)```", DOC, re.M | re.S)[1]


@pytest.fixture
def output(tmp_path):
    rows = [row(f"/{i}.jpg", [(f"label {i % 13}", i / 100), ("x", 0.0)]) for i in range(100)]
    rows += [row(f"/bad{i}.jpg", status="truncated", error="cut") for i in range(5)]
    return write_table(tmp_path / "out", rows, parts=3)


def test_the_three_engines_answer_alike(output):
    by_duckdb = duckdb.sql(block("DuckDB", "sql").replace("OUT", output)).df()
    names = {}
    exec(block("pandas", "python").replace("OUT", output), names)
    by_pandas = names["answer"].reset_index()
    exec(block("Polars", "python").replace("OUT", output), names)
    by_polars = names["answer"]
    assert isinstance(by_polars, pl.DataFrame)
    by_polars = pd.DataFrame(by_polars.to_dict(as_series=False))
    assert by_duckdb["label"].tolist()[0] == "label 0" and len(by_duckdb) == 10
    for other in (by_pandas, by_polars):
        assert other["label"].tolist() == by_duckdb["label"].tolist()
        assert other["images"].tolist() == by_duckdb["images"].tolist()
        assert other["certainty"].tolist() == pytest.approx(by_duckdb["certainty"].tolist())


def test_the_other_queries_run(output):
    close = duckdb.sql(block("More for DuckDB", "sql").replace("OUT", output)).fetchall()
    assert len(close) == 10
    assert duckdb.sql(block("What failed", "sql").replace("OUT", output)).fetchall() == [
        ("truncated", 5, "cut")
    ]


def test_each_column_and_status_is_explained():
    columns = DOC[DOC.index("## Columns") : DOC.index("## Statuses")]
    statuses = DOC[DOC.index("## Statuses") : DOC.index("## Questions")]
    for name in (*OUTPUT_COLUMNS, *FACT_TYPES):
        assert f"`{name}`" in columns
    assert re.findall(r"^\| `(\w+)`", statuses, re.M) == [status.value for status in Status]
