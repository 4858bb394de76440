"""Parts of the output: whole or absent, the same bytes each time, damage found."""

import pathlib

import pyarrow as pa
import pytest

from imagecensus.transforms.dataset import parts
from imagecensus.transforms.dataset.inventory import take_inventory
from imagecensus.transforms.dataset.work_plan import Plan, PlanFile, unit_name
from imagecensus.transforms.records import REF_SCHEMA, Unit, prediction_schema


def unit(rows=4, **fields) -> Unit:
    """A unit of the images /0, /1 … as `rows_of` makes their rows."""
    name = unit_name(rows_of(["ok"] * rows), "f")
    return Unit(name=name, plan="plan", row_group=0, rows=rows, **fields)


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
    return parts.write_part(str(folder), unit, rows_of(statuses), {"fingerprint": "f"}, **options)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    location = write(tmp_path, unit(), ["ok", "ok", "truncated", "ok"])
    first = pathlib.Path(location).read_bytes()
    write(tmp_path, unit(), ["ok", "ok", "truncated", "ok"])
    assert pathlib.Path(location).read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [f"part-{unit().name}.parquet"]


@pytest.mark.parametrize("codec", ["zstd", "snappy"])
def test_compression_is_the_one_asked_for(tmp_path, codec):
    import pyarrow.parquet as pq

    location = write(tmp_path, unit(), ["ok"] * 4, compression=codec)
    assert pq.ParquetFile(location).metadata.row_group(0).column(0).compression == codec.upper()


def inventory_of(folder, *units):
    return take_inventory(str(folder), Plan(files=(PlanFile(location="p", units=units),)), "f")


def test_inventory_counts_and_finds_what_is_missing(tmp_path):
    write(tmp_path, unit(), ["ok", "ok", "truncated", "empty_file"])
    write(tmp_path, unit(2), ["ok", "ok"])
    write(tmp_path, unit(1), ["ok"])
    found = inventory_of(tmp_path, unit(), unit(2), unit(3))
    assert (found.totals.rows, found.totals.predicted, found.totals.failed) == (6, 4, 2)
    assert found.totals.statuses == {"ok": 4, "truncated": 1, "empty_file": 1}
    assert found.totals.labels == {"cat": 4}
    assert found.pending == [unit(3)]
    assert found.with_failures == {unit().name}
    assert found.unplanned == [parts.part_location(str(tmp_path), unit(1))]


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "emptied", "short", "lost", "doubled", "swapped", "another's"]
)
def test_inventory_finds_damage(tmp_path, damage):
    location = write(tmp_path, unit(), ["ok", "ok", "truncated", "ok"])
    content = bytearray(pathlib.Path(location).read_bytes())
    rows = rows_of(["ok", "ok", "truncated", "ok"])
    order = {"short": [0, 1, 2], "lost": [0, 1, 2, 2], "doubled": [0, 0, 1, 2, 3]}
    order |= {"swapped": [1, 0, 2, 3]}
    if damage == "cut":
        content = content[:-30]
    elif damage == "emptied":
        content = b""
    elif damage == "flipped":
        content[60] ^= 0xFF
    else:  # a whole file with its checksum, but with other rows
        other = rows.take(order.get(damage, [0, 1, 2, 3]))
        if damage == "another's":
            other = other.set_column(0, other.schema.field(0), pa.array(list("wxyz")))
        stand_in = Unit(name=unit_name(other, "f"), plan="plan", row_group=0, rows=other.num_rows)
        made = parts.write_part(str(tmp_path), stand_in, other, {"fingerprint": "f"})
        content = pathlib.Path(made).read_bytes()
        pathlib.Path(made).unlink()
    pathlib.Path(location).write_bytes(content)
    found = inventory_of(tmp_path, unit())
    assert found.damaged == [location] and found.pending == [unit()]
    assert found.totals.rows == 0


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 0, 2, 3]])
def test_rows_that_are_not_the_units_are_never_written(tmp_path, order):
    rows = rows_of(["ok"] * 4).take(order)
    with pytest.raises(RuntimeError, match="references"):
        parts.write_part(str(tmp_path), unit(), rows, {"fingerprint": "f"})
    assert not list(tmp_path.iterdir())


def test_retried_rows_are_merged_by_uri_whatever_became_of_the_part_meanwhile():
    """A retry of {1, 2, 3} met a part whose failures are {7, 8, 9}: no row is lost or doubled."""
    statuses = ["ok"] * 10
    old = rows_of([*statuses[:7], "truncated", "truncated", "truncated"])
    refs = pa.RecordBatch.from_pylist(
        [{"uri": f"/{i}", "etag_or_mtime": "1"} for i in range(10)],
        pa.schema([f for f in REF_SCHEMA if f.name in ("uri", "etag_or_mtime")]),
    )
    new = rows_of(statuses, "dog").take([3, 1, 2])
    merged = parts.assemble(refs, [f"/{i}" for i in range(10)], old, new)
    assert merged.column("uri").to_pylist() == [f"/{i}" for i in range(10)]
    assert merged.column("label").to_pylist()[:4] == ["cat", "dog", "dog", "dog"]
    with pytest.raises(RuntimeError, match="/3: has no row"):
        parts.assemble(refs, ["/0", "/1", "/2", None, *[f"/{i}" for i in range(4, 10)]], old, None)
    with pytest.raises(RuntimeError, match="twice"):
        parts.assemble(refs, [None] * 10, old, new.take([0, 0]))


def test_a_stale_writer_and_a_late_attempt_change_nothing(tmp_path):
    """Run 1's worker hangs; run 2 writes the part; the late one must not replace it."""
    good = write(tmp_path, unit(), ["ok"] * 4)
    before = pathlib.Path(good).read_bytes()
    assert write(tmp_path, unit(), ["ok", "read_error", "read_error", "ok"]) == good
    assert pathlib.Path(good).read_bytes() == before
    revised = unit(revision=1, base=0, digest=unit().name)
    later = write(tmp_path, revised, ["ok", "ok", "ok", "not_found"])
    assert [p.name for p in tmp_path.iterdir()] == [pathlib.Path(later).name]
    assert later.endswith(".r1.parquet") and list(parts.list_parts(str(tmp_path))) == [unit().name]
    write(tmp_path, unit(), ["ok"] * 4)  # the first run's worker wakes up even later
    found = inventory_of(tmp_path, unit(), revised)
    assert found.stale == [good] and found.totals.rows == 4


def test_repeats_are_sought_in_every_column_but_the_embedding(tmp_path):
    import pyarrow.parquet as pq

    rows = rows_of(["ok"] * 4)
    entry = {"label": "cat", "class_id": 1, "score": 0.5}
    top_k = pa.array([[entry]] * 4, rows.schema.field("top_k").type)
    rows = rows.set_column(rows.schema.get_field_index("top_k"), "top_k", top_k)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 12, pa.float32()), 3)
    rows = rows.append_column("embedding", vectors)
    group = pq.ParquetFile(
        parts.write_part(str(tmp_path), unit(), rows, {"fingerprint": "f"})
    ).metadata.row_group(0)
    plain = [
        column.path_in_schema
        for column in map(group.column, range(group.num_columns))
        if column.dictionary_page_offset is None
    ]
    assert plain == ["embedding.list.element"]
