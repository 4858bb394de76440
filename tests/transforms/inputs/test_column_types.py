"""Types and names of the columns that go along from lists."""

import decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import listed

from imagecensus.transforms.inputs.column_types import TypeProof, from_text, passed_names
from imagecensus.transforms.list_images import passthrough_columns


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


TYPES = [
    (["1", "-2", ""], pa.int64()),
    (["007", "1"], pa.string()),
    (["1.0", "2.5"], pa.float64()),
    (["0.10"], pa.string()),
    (["1e10", "12e3"], pa.string()),
    (["123456789012345678901234"], pa.string()),
    (["t", "f"], pa.string()),
    (["true", "false"], pa.bool_()),
    (["True", "False"], pa.string()),
    (["01/02/2024"], pa.string()),
    (["2024-01-02"], pa.date32()),
    (["2024-01-02", "soon"], pa.string()),
    (["2024-01-02 03:04:05"], pa.timestamp("us")),
    (["2024-01-02T03:04:05.123Z"], pa.timestamp("us", "UTC")),
    (["2024-01-02T03:04:05+02:00"], pa.string()),
    (["2024-13-02T03:04:05Z"], pa.string()),
    ([""], pa.string()),
]


@pytest.mark.parametrize(("texts", "kind"), TYPES)
def test_a_column_is_text_unless_it_prints_back_from_a_type(tmp_path, texts, kind):
    lines = "".join(f"{i}.jpg,{text}\n" for i, text in enumerate(texts))
    path = str(write(tmp_path / "list.csv", "path,x\n" + lines))
    assert passthrough_columns((path,)).field("x").type == kind
    for row, text in zip(listed(path), texts, strict=True):
        if kind == pa.string():
            assert row["x"] == (text or None)


@given(st.lists(st.one_of(st.integers().map(str), st.floats().map(repr), st.text(max_size=12))))
def test_no_type_loses_what_was_written(texts):
    values = pa.array([text or None for text in texts], pa.string())
    proof = TypeProof()
    for start in range(0, len(values), 3):
        proof.add(values.slice(start, 3))
    typed = from_text(values, proof.type)
    assert typed.null_count == values.null_count
    if pa.types.is_integer(proof.type):
        assert [str(v) if v is not None else None for v in typed.to_pylist()] == values.to_pylist()
    if proof.type == pa.string():
        assert typed.equals(values)


def test_lists_that_disagree_keep_the_text_of_both(tmp_path):
    a = str(write(tmp_path / "a.csv", "path,x,when\na.jpg,1.0,2024-01-02T03:04:05Z\n"))
    b = str(write(tmp_path / "b.csv", "path,x,when\nb.jpg,one,2024-01-02\n"))
    columns = passthrough_columns((a, b))
    assert columns.types == [pa.string(), pa.string()]
    rows = listed(a, b, columns=columns)
    assert [(row["x"], row["when"]) for row in rows] == [
        ("1.0", "2024-01-02T03:04:05Z"), ("one", "2024-01-02"),
    ]  # fmt: skip


def test_parquet_types_that_others_cannot_read_become_the_nearest(tmp_path):
    moment = 1_704_164_645_123_456_789
    table = pa.table(
        {
            "path": pa.array(["a.jpg"]).dictionary_encode(),
            "taken": pa.array([moment], pa.timestamp("ns")),
            "seen": pa.array([moment], pa.timestamp("ns", "Europe/Berlin")),
            "GPS.lat": [1.5], "Site Name": pa.array(["x"], pa.large_string()),
            "n": pa.array([7], pa.uint32()), "half": pa.array([0.5], pa.float16()),
            "times": pa.array([[moment]], pa.list_(pa.timestamp("ns"))),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "list.parquet")
    schema = passthrough_columns((str(tmp_path / "list.parquet"),))
    assert {field.name: str(field.type) for field in schema} == {
        "taken": "timestamp[us]", "seen": "timestamp[us, tz=UTC]", "GPS_lat": "double",
        "Site_Name": "string", "n": "int64", "half": "float", "times": "list<item: timestamp[us]>",
    }  # fmt: skip
    (row,) = listed(tmp_path / "list.parquet")
    assert row["taken"].isoformat() == "2024-01-02T03:04:05.123456"
    assert row["uri"] == f"{tmp_path}/a.jpg"


def test_numbers_lists_and_maps_of_any_arrow_type_go_along(tmp_path):
    price = decimal.Decimal("1.50")
    table = pa.table(
        {
            "path": ["a.jpg"], "long": pa.array([price], pa.decimal256(50, 2)),
            "wide": pa.array([price], pa.decimal256(20, 2)),
            "short": pa.array([price], pa.decimal32(5, 2)),
            "view": pa.array([[1]], pa.list_view(pa.uint8())),
            "map": pa.array([[("a", price)]], pa.map_(pa.string(), pa.decimal256(50, 2))),
            "inner": pa.array([{"n": price}], pa.struct([("n", pa.decimal256(50, 2))])),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "list.parquet")
    (row,) = listed(tmp_path / "list.parquet")
    assert (row["long"], row["wide"], row["short"]) == ("1.50", price, price)
    assert (row["view"], row["map"], row["inner"]) == ([1], [("a", "1.50")], {"n": "1.50"})
    schema = passthrough_columns((str(tmp_path / "list.parquet"),))
    found = duckdb.from_arrow(schema.empty_table())
    assert found.columns == ["long", "wide", "short", "view", "map", "inner"]


def test_names_are_told_apart_from_ours_and_each_other_without_case():
    names = ["Label", "manifest_label", "Site Name", "site_name", "a/b", "größe", "1st", "", "URI"]
    found = passed_names(names)
    assert found == [
        "manifest_Label", "manifest_label_2", "Site_Name", "site_name_2", "a_b", "größe", "_1st",
        "column", "manifest_URI",
    ]  # fmt: skip
    assert len({name.casefold() for name in found}) == len(found)


def test_duplicate_columns_are_kept_apart(tmp_path):
    (row,) = listed(write(tmp_path / "list.csv", "path,site,site,SITE,\na.jpg,1,2,3,\n"))
    assert (row["site"], row["site_2"], row["SITE_3"]) == (1, 2, 3)
