"""Parts merged: the same rows, sorted, at once for readers; killed anywhere, and reruns go on."""

from __future__ import annotations

import threading

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagecensus.jobs.results.open_table import open_table
from imagecensus.model_export.common import fault_injection
from imagecensus.transforms.dataset import compaction, inventory, parts, plan_units, work_plan
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.records import REF_SCHEMA, prediction_schema

COUNT = "SELECT count(*), count(DISTINCT uri) FROM predictions"
LIST = pa.schema([pa.field("camera_id", pa.int16()), pa.field("label_of", pa.string())])


def references(numbers, etag="1", columns=LIST):
    rows = [
        {"uri": f"/{i % 7}/{i:04d}", "size": i, "etag_or_mtime": etag, "camera_id": i % 5,
         "label_of": None if i % 3 else "x"}
        for i in numbers
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, pa.schema([*REF_SCHEMA, *columns]))


def plan(layout, batch, columns=LIST, **revising):
    found = work_plan.read_plan(layout.state)
    present = inventory.take_inventory(layout.parts, found, "f")
    bases = present.bases | {name: p.file.revision for name, p in present.parts.items()}
    planned = plan_units.plan_units(
        [batch], layout.state, "f", passthrough=columns, unit_rows=8,
        revising=plan_units.Revising(
            bases=bases, failed=lambda name: inventory.failed_uris(present.parts[name]),
            retry=frozenset(present.with_failures), **revising,
        ),
    )  # fmt: skip
    done = {(name, part.file.revision) for name, part in present.parts.items()}
    return [u for u in planned.plan.units if (u.name, u.revision) not in done]


def classify(layout, units, failed="never", run_id="r", embedding=None):
    for unit in units:
        refs, taken = work_plan.read_taken(unit)
        passed = pa.schema([f for f in refs.schema if f.name not in REF_SCHEMA.names])
        schema = prediction_schema(passed, embedding)
        made = []
        for ref in refs.to_pylist():
            row = {name: value for name, value in ref.items() if name in schema.names}
            good = not ref["uri"].endswith(failed)
            row |= {"status": "ok" if good else "truncated", "label": "cat" if good else None}
            if embedding:
                row["embedding"] = [float(len(made))] * embedding if good else [None] * embedding
            top = [{"label": "cat", "class_id": 1, "score": 0.5}]
            made.append(row | {"top_k": top if good else None})
        rows = pa.Table.from_pylist(made, schema)
        old = parts.rows_to_take(layout.parts, unit)
        if old is not None:
            rows = rows.filter(pa.array(parts.missing(taken, old)))
            rows = parts.assemble(refs, taken, old, rows)
        parts.write_part(layout.parts, unit, rows, {"fingerprint": "f", "run_id": run_id})


def rows_of(layout):
    """The table as any program reads it: by a glob."""
    found = duckdb.sql(
        f"SELECT * FROM read_parquet('{layout.parts}/*.parquet', union_by_name=true) ORDER BY uri"
    )
    return found.to_arrow_table()


def files(layout):
    return sorted(file.location.rpartition("/")[2] for file in parts.list_part_files(layout.parts))


def run_compact(layout, rows=32, run_id="abcdef"):
    return compaction.compact(layout, "f", run_id, rows)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("embedding", [None, 3])
def test_the_same_rows_in_few_sorted_files(layout, monkeypatch, beside, embedding):
    """With columns that later lists brought, failures, and revisions; older ones are removed."""
    monkeypatch.setattr(compaction.store, "is_bucket", lambda _: beside)
    old = pa.schema([LIST.field("camera_id")])
    classify(
        layout, plan(layout, references(range(60), columns=old), old), "9", embedding=embedding
    )
    classify(layout, plan(layout, references(range(100))), run_id="s", embedding=embedding)
    before, [schema] = (
        rows_of(layout),
        [pq.read_schema(f).remove_metadata() for f in newest(layout)],
    )
    done = run_compact(layout)
    assert (done.rows, done.after, done.pending) == (100, 4, 0) and done.before > 10
    assert rows_of(layout).equals(before)
    assert len(files(layout)) == 4
    uris = []
    for name in files(layout):
        file = pq.ParquetFile(f"{layout.parts}/{name}")
        assert file.num_row_groups == 1
        uris += file.read(["uri"]).column(0).to_pylist()
        assert file.schema_arrow.remove_metadata().equals(schema)
    assert uris == sorted(uris)
    found = inventory.take_inventory(layout.parts, work_plan.read_plan(layout.state), "f")
    assert found.totals.rows == 100 and not (found.pending or found.stale or found.unplanned)
    assert run_compact(layout).before == 4  # nothing to do


def test_large_parts_are_read_one_at_a_time(layout, monkeypatch):
    """Those of an earlier merge: so many of them as of small ones would not fit into memory."""
    classify(layout, plan(layout, references(range(60))))
    run_compact(layout, 30)
    classify(layout, plan(layout, references(range(100))))
    monkeypatch.setattr(compaction, "_AT_ONCE", 16)
    read, concatenate = [], pa.concat_tables

    def noting(tables, **options):
        tables = list(tables)
        read.append([table.num_rows for table in tables])
        return concatenate(tables, **options)

    before = rows_of(layout)
    monkeypatch.setattr(compaction.pa, "concat_tables", noting)
    run_compact(layout, 50, "fedcba")
    assert [30] in read and [8, 8] in read
    assert all(sum(rows) <= 16 or len(rows) == 1 for rows in read[:8])
    assert rows_of(layout).equals(before)


def newest(layout):
    return sorted(p.location for p in parts.list_part_files(layout.parts))[-1:]


def test_reruns_go_on(layout):
    """Nothing is new; what changed, failed or is new is done, and the rest is taken over."""
    classify(layout, plan(layout, references(range(60))), "9")
    run_compact(layout, 16)
    assert [u for u in plan(layout, references(range(60))) if u.base < 0] == []
    units = plan(layout, references(range(70)))
    assert {unit.base for unit in units} == {0, -1}
    classify(layout, units, run_id="later")
    table = rows_of(layout).to_pylist()
    found = inventory.take_inventory(layout.parts, work_plan.read_plan(layout.state), "f")
    inventory.remove(found.stale)
    assert found.totals.rows == 70 == found.totals.predicted and len(table) == 70
    changed = plan(layout, references([3], etag="2"))
    assert [unit.revision for unit in changed] == [2 if changed[0].base else 1]
    classify(layout, changed)
    run_compact(layout, 16, "fedcba")
    table = rows_of(layout)
    assert table.num_rows == 70 and table.column("etag_or_mtime").to_pylist().count("2") == 1


def test_what_is_to_be_done_yet_stays_so(layout):
    """A unit without a part, and one whose revision waits for its rows."""
    units = plan(layout, references(range(60)))
    classify(layout, units[1:], "9")
    waiting = plan(layout, references(range(60)))
    assert len(waiting) > 1
    done = run_compact(layout, 16)
    assert done.pending == len(waiting) and done.rows < 60
    again = plan(layout, references(range(60)))
    classify(layout, again)
    assert rows_of(layout).num_rows >= 60
    found = inventory.take_inventory(layout.parts, work_plan.read_plan(layout.state), "f")
    inventory.remove(found.stale)
    assert rows_of(layout).num_rows == 60 == found.totals.predicted


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("point", ["begun", "written", "done"])
def test_killed_anywhere(layout, monkeypatch, point, beside):
    monkeypatch.setattr(compaction.store, "is_bucket", lambda _: beside)
    classify(layout, plan(layout, references(range(60))))
    before = rows_of(layout)

    def die(name):
        if name == f"compaction.{point}":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fault_injection, "reached", die)
        with pytest.raises(KeyboardInterrupt):
            run_compact(layout, 16)
    seen = pa.concat_tables(parts.read_part(p) for p in parts.list_parts(layout.parts).values())
    assert sorted(seen.column("uri").to_pylist()) == before.column("uri").to_pylist()
    found = inventory.take_inventory(layout.parts, work_plan.read_plan(layout.state), "f")
    assert found.totals.rows == 60 and not found.unplanned
    compaction.recover(layout)
    assert rows_of(layout).equals(before)
    assert run_compact(layout, 16, "fedcba").after == 4
    assert rows_of(layout).equals(before) and len(files(layout)) == 4
    assert not [p for p in files(layout) if "c00" not in p]


def test_a_file_system_without_exchange(layout, monkeypatch):
    def refuse(*_):
        raise OSError(22, "no")

    monkeypatch.setattr(compaction, "_exchange", refuse)
    classify(layout, plan(layout, references(range(60))))
    before = rows_of(layout)
    assert run_compact(layout, 16).after == 4
    assert rows_of(layout).equals(before) and len(files(layout)) == 4


def test_readers_see_all_rows_at_any_time(layout):
    """Who opens the table anew each time finds each row once, while it is merged ten times."""
    classify(layout, plan(layout, references(range(200))))
    over, counts = threading.Event(), []

    def read():
        while not over.is_set():
            try:
                with open_table(layout.output) as table:
                    counts.append(table.query(COUNT))
            except Exception as error:  # a file that was listed has gone: said, never miscounted
                assert "cannot be read" in str(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(6):
        run_compact(layout, 100 - 15 * number, f"{number:06d}")
    over.set()
    thread.join()
    assert counts and all(rows == distinct == 200 for [(rows, distinct)] in counts)


def test_shards_are_refused_afterwards(layout):
    classify(layout, plan(layout, references(range(60))))
    run_compact(layout, 16)
    with pytest.raises(Exception, match="without --shard"):
        compaction.recover_or_refuse(Layout(output=layout.output, shard=(0, 2)))
