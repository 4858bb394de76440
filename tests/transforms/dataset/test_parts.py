"""Parts of the output: whole or absent, the same bytes each time, damage found."""

import pathlib

import pyarrow as pa
import pytest

from imagecensus.transforms.dataset import parts
from imagecensus.transforms.records import Unit, prediction_schema


def unit(name="u", rows=4, retry=False) -> Unit:
    return Unit(name, "plan", 0, rows, retry)


def rows_of(statuses, label="cat") -> pa.Table:
    rows = [
        {
            "uri": f"/{i}",
            "status": status,
            "label": label if status == "ok" else None,
            "etag_or_mtime": "1",
        }
        for i, status in enumerate(statuses)
    ]
    return pa.Table.from_pylist(rows, prediction_schema())


def write(folder, unit, statuses, **options) -> str:
    return parts.write_part(str(folder), unit, rows_of(statuses), {"run_id": "r"}, **options)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    location = write(tmp_path, unit(), ["ok", "ok", "truncated", "ok"])
    first = pathlib.Path(location).read_bytes()
    write(tmp_path, unit(), ["ok", "ok", "truncated", "ok"])
    assert pathlib.Path(location).read_bytes() == first
    assert parts.read_provenance(location) == {"run_id": "r"}
    assert [p.name for p in tmp_path.iterdir()] == ["part-u.parquet"]  # no temporary file


@pytest.mark.parametrize("codec", ["zstd", "snappy"])
def test_compression_is_the_one_asked_for(tmp_path, codec):
    import pyarrow.parquet as pq

    location = write(tmp_path, unit(), ["ok"] * 4, compression=codec)
    assert pq.ParquetFile(location).metadata.row_group(0).column(0).compression == codec.upper()


def test_inventory_counts_and_finds_what_is_missing(tmp_path):
    write(tmp_path, unit("a"), ["ok", "ok", "truncated", "empty_file"])
    write(tmp_path, unit("b", 2), ["ok", "ok"])
    write(tmp_path, unit("stray", 1), ["ok"])
    found = parts.take_inventory(str(tmp_path), [unit("a"), unit("b", 2), unit("c")])
    assert (found.totals.rows, found.totals.predicted, found.totals.failed) == (6, 4, 2)
    assert found.totals.statuses == {"ok": 4, "truncated": 1, "empty_file": 1}
    assert found.totals.labels == {"cat": 4}
    assert [u.name for u in found.pending] == ["c"]
    assert [u.name for u in found.with_failures] == ["a"]
    assert [p.rsplit("/")[-1] for p in found.unplanned] == ["part-stray.parquet"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "short"])
def test_inventory_finds_damage(tmp_path, damage):
    location = write(tmp_path, unit("a"), ["ok", "ok", "truncated", "ok"])
    content = bytearray(pathlib.Path(location).read_bytes())
    if damage == "cut":
        content = content[:-30]
    elif damage == "emptied":
        content = b""
    elif damage == "flipped":
        content[60] ^= 0xFF
    expected = unit("a", 5 if damage == "short" else 4)
    pathlib.Path(location).write_bytes(content)
    found = parts.take_inventory(str(tmp_path), [expected])
    assert found.damaged == [location] and found.pending == [expected]
    assert found.totals.rows == 0


def test_retried_rows_take_the_failed_ones_places():
    old = rows_of(["ok", "truncated", "ok", "empty_file"], "cat")
    new = rows_of(["ok", "not_found"], "dog")
    merged = parts.merge_retried(old, new)
    assert merged.column("status").to_pylist() == ["ok", "ok", "ok", "not_found"]
    assert merged.column("label").to_pylist() == ["cat", "dog", "cat", None]
    assert merged.schema == old.schema
    with pytest.raises(RuntimeError, match="1 retried rows for 2 failed ones"):
        parts.merge_retried(old, new.slice(1))


def test_failed_rows_are_found_in_the_part(tmp_path):
    write(tmp_path, unit("a"), ["ok", "truncated", "ok", "empty_file"])
    refs = pa.record_batch({"uri": ["/0", "/1", "/2", "/3"]})
    assert parts.failed_rows(refs, str(tmp_path), unit("a")).to_pydict() == {"uri": ["/1", "/3"]}


def test_repeats_are_sought_in_every_column_but_the_embedding(tmp_path):
    import pyarrow.parquet as pq

    rows = rows_of(["ok"] * 4)
    entry = {"label": "cat", "class_id": 1, "score": 0.5}
    top_k = pa.array([[entry]] * 4, rows.schema.field("top_k").type)
    rows = rows.set_column(rows.schema.get_field_index("top_k"), "top_k", top_k)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 12, pa.float32()), 3)
    rows = rows.append_column("embedding", vectors)
    group = pq.ParquetFile(parts.write_part(str(tmp_path), unit(), rows, {})).metadata.row_group(0)
    plain = [
        column.path_in_schema
        for column in map(group.column, range(group.num_columns))
        if column.dictionary_page_offset is None
    ]
    assert plain == ["embedding.list.element"]
