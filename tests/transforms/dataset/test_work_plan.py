"""The plan: every image exactly once, whatever the order, the repetition and the restarts."""

import concurrent.futures
import os

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagecensus.transforms.dataset import compare, plan_index, unchanged, work_plan
from imagecensus.transforms.dataset.plan_units import (
    Revising,
    plan_units,
    shard_of,
    uri_digests,
)
from imagecensus.transforms.dataset.work_plan import (
    PlanError,
    read_plan,
    read_taken,
    read_unit,
    unit_name,
)
from imagecensus.transforms.records import REF_SCHEMA


@pytest.fixture(autouse=True, params=["small files", "indexed", "in pieces", "all hashes equal"])
def kind(request, monkeypatch):
    """Plan files have indexes or are too small for one; hashes tell rows apart or do not.

    In pieces: what is listed as it was is found as that of large listings is.
    """
    if request.param != "small files":
        monkeypatch.setattr(plan_index, "LEAST_ROWS", 1)
    if request.param in ("in pieces", "all hashes equal"):
        monkeypatch.setattr(unchanged, "_LEAST_ROWS", 1)
        monkeypatch.setattr(unchanged, "_ROWS_AT_ONCE", 3)
    if request.param == "all hashes equal":
        monkeypatch.setattr(plan_index, "hash_rows", equal_hashes)
    return request.param


def equal_hashes(rows) -> plan_index.Hashes:
    ones = np.ones(rows.num_rows, np.uint64)
    return plan_index.Hashes(uris=ones, versions=ones)


def references(uris, etag="1", **columns) -> pa.RecordBatch:
    count = len(uris)
    table = {
        "uri": pa.array(uris, pa.string()),
        "size": pa.array([7] * count, pa.int64()),
        "etag_or_mtime": pa.array([etag] * count, pa.string()),
        "container": pa.nulls(count, pa.string()),
        "member": pa.nulls(count, pa.string()),
    }
    fields = list(REF_SCHEMA)
    for name, values in columns.items():
        table[name] = pa.array(values)
        fields.append(pa.field(name, table[name].type))
    return pa.RecordBatch.from_arrays(list(table.values()), schema=pa.schema(fields))


def plan(folder, *batches, fingerprint="f", passthrough=None, **options):
    return plan_units(
        batches, str(folder), fingerprint, passthrough=passthrough or pa.schema([]), **options
    )


def planned_uris(folder) -> list[str]:
    return [
        uri
        for unit in read_plan(str(folder)).units
        for uri in read_unit(unit).column("uri").to_pylist()
    ]


def test_units_hold_every_reference_once_and_in_order(tmp_path):
    uris = [f"/photos/{i}.jpg" for i in range(25)]
    planned = plan(tmp_path, references(uris[:9]), references(uris[9:]), unit_rows=10)
    assert [unit.rows for unit in planned.units] == [10, 10, 5]
    assert planned_uris(tmp_path) == uris
    assert (planned.listed, planned.known, planned.duplicates, planned.added) == (25, 0, 0, 25)
    assert read_plan(str(tmp_path)).units == planned.units


def test_a_rerun_adds_only_what_is_new(tmp_path):
    plan(tmp_path, references(["a", "b", "c"]))
    again = plan(tmp_path, references(["c", "b", "a"]))
    assert (again.listed, again.known, again.added, again.units) == (3, 3, 0, [])
    more = plan(tmp_path, references(["a", "d", "d", "b"]))
    assert (more.listed, more.known, more.duplicates, more.added) == (4, 2, 1, 1)
    assert planned_uris(tmp_path) == ["a", "b", "c", "d"]


def test_a_dry_run_writes_nothing(tmp_path):
    planned = plan(tmp_path, references(["a"]), dry_run=True)
    assert planned.added == 1 and not list(tmp_path.iterdir())


def test_limit_counts_listed_images(tmp_path):
    uris = [str(i) for i in range(100)]
    planned = plan(tmp_path, references(uris[:60]), references(uris[60:]), limit=70, unit_rows=50)
    assert (planned.listed, planned.added) == (70, 70)
    assert planned_uris(tmp_path) == uris[:70]


def test_names_depend_on_references_and_fingerprint():
    rows = references(["a", "b"])
    assert unit_name(rows, "f") == unit_name(references(["a", "b"]), "f")
    names = {
        unit_name(rows, "f"),
        unit_name(rows, "g"),
        unit_name(references(["b", "a"]), "f"),
        unit_name(references(["ab", ""]), "f"),
        unit_name(references(["a", "b"], etag="2"), "f"),
    }
    assert len(names) == 5


def test_passthrough_columns_go_along_and_are_null_elsewhere(tmp_path):
    extra = pa.schema([pa.field("camera", pa.string())])
    plan(
        tmp_path,
        references(["a"], camera=["north"]),
        references(["b"]),
        passthrough=extra,
    )
    (unit,) = read_plan(str(tmp_path)).units
    assert read_unit(unit).column("camera").to_pylist() == ["north", None]
    with pytest.raises(PlanError, match="column 'camera' does not fit"):
        plan(
            tmp_path,
            references(["c"], camera=["x"]),
            passthrough=pa.schema([pa.field("camera", pa.int64())]),
        )


def test_a_damaged_plan_is_named(tmp_path):
    plan(tmp_path, references(["a"]))
    (path,) = tmp_path.glob("*.parquet")
    path.rename(tmp_path / "plan-00000-cut.parquet")
    path = tmp_path / "plan-00000-cut.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PlanError, match=r"plan-00000-cut\.parquet: the plan is damaged"):
        read_plan(str(tmp_path))


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=5),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_any_listing_in_any_runs_and_shards_is_planned_exactly_once(runs, unit_rows, shards):
    """Resharding, rebatching and restarting never lose or repeat an image."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            batches = [
                references([f"/{i}" for i in run[at : at + 7]]) for at in range(0, len(run), 7)
            ]
            for shard in range(shards):
                plan(folder, *batches, unit_rows=unit_rows, shard=(shard, shards))
        wanted = {f"/{i}" for run in runs for i in run}
        assert sorted(planned_uris(folder)) == sorted(wanted)
        assert all(0 < unit.rows <= unit_rows for unit in read_plan(folder).units)


def test_changed_images_are_revised_and_gone_ones_counted(tmp_path):
    plan(tmp_path, references([f"/p/{i}" for i in range(5)]), unit_rows=3)
    listed = references(["/p/0", "/p/1"]), references(["/p/3"], etag="2"), references(["/p/new"])
    seen = plan(tmp_path, *listed, dry_run=True, revising=Revising(whole=("/p",)))
    assert (seen.listed, seen.known, seen.changed, seen.added) == (4, 2, 1, 1)
    assert seen.gone == ("/p/2", "/p/4")
    plan(tmp_path, *listed, revising=Revising(whole=("/p",), drop_gone=True))
    assert sorted(planned_uris(tmp_path)) == ["/p/0", "/p/1", "/p/3", "/p/new"]
    again = plan(tmp_path, *listed, revising=Revising(whole=("/p",)))
    assert (again.known, again.changed, again.added, again.gone) == (4, 0, 0, ())
    elsewhere = plan(tmp_path, references(["/q/0"]), revising=Revising(whole=("/q",)))
    assert elsewhere.gone == ()
    cut = plan(tmp_path, *listed, limit=1, revising=Revising(whole=("/p",)))
    assert cut.gone == ()


def rows_in_plan(folder) -> list[dict]:
    return [row for unit in read_plan(str(folder)).units for row in read_taken(unit)[0].to_pylist()]


def taken_in_plan(folder) -> list:
    return [uri for unit in read_plan(str(folder)).units for uri in read_taken(unit)[1]]


# Names as SQL, DuckDB and this module use them.
NAMES = ["plot", "rowid", "row", "file", "uri is", 'a "b"', "given", "state", "n"]


@pytest.mark.parametrize("name", NAMES)
def test_corrected_values_of_a_list_are_taken_over_without_classifying(tmp_path, name):
    columns = pa.schema([pa.field(name, pa.string()), pa.field("other", pa.int64())])

    def run(*batches, base=0):
        bases = {unit.name: base for unit in read_plan(str(tmp_path)).units}
        return plan(tmp_path, *batches, passthrough=columns, revising=Revising(bases=bases))

    first = run(references(["a", "b", "c"], **{name: ["1", "2", "3"], "other": [1, 2, 3]}))
    assert (first.added, first.updated) == (3, 0)
    # One is corrected, one is cleared; named twice, the first counts. A folder knows no columns.
    corrected = references(["a", "b", "b", "c"], **{name: ["77", None, "9", "3"]})
    second = run(corrected)
    assert (second.known, second.updated, second.changed, second.duplicates) == (3, 2, 0, 1)
    assert [(row["uri"], row[name], row["other"]) for row in rows_in_plan(tmp_path)] == [
        ("a", "77", 1),
        ("b", None, 2),
        ("c", "3", 3),
    ]
    assert taken_in_plan(tmp_path) == ["a", "b", "c"]  # nothing is classified again
    third = run(references(["a", "b", "c"]), base=1)
    assert (third.known, third.updated, third.units) == (3, 0, [])


def test_relocated_images_keep_their_rows(tmp_path):
    old = ["/disk1/a", "/disk1/b", "/disk1/gone", "/disk10/a", "/disk1/twice", "/disk1/s.tar#m"]
    plan(tmp_path, references(old), references(["/disk2/twice"]))
    (unit,) = read_plan(str(tmp_path)).units
    listed = references(["/disk2/a", "/disk2/s.tar#m", "/disk2/twice", "/disk2/new"])
    changed = references(["/disk2/b"], etag="2")
    seen = plan(
        tmp_path,
        listed,
        changed,
        revising=Revising(whole=("/disk2",), bases={unit.name: 0}, relocate=("/disk1/", "/disk2")),
    )
    assert (seen.known, seen.changed, seen.added, seen.moved) == (3, 1, 1, 4)
    assert seen.gone == ("/disk2/gone",)
    rows = dict(zip(planned_uris(tmp_path), taken_in_plan(tmp_path), strict=True))
    assert rows == {
        "/disk2/a": "/disk1/a",
        "/disk2/b": None,
        "/disk2/gone": "/disk1/gone",
        "/disk10/a": "/disk10/a",
        "/disk2/s.tar#m": "/disk1/s.tar#m",
        "/disk2/twice": "/disk2/twice",
        "/disk2/new": None,
    }


def test_shards_are_disjoint_and_even():
    digests = uri_digests(pa.array([f"/photos/{i}.jpg" for i in range(4000)]))
    counts = np.bincount(shard_of(digests, 4), minlength=4)
    assert counts.sum() == 4000 and counts.min() > 900


def test_what_is_elsewhere_is_planned_without_reading_the_plan(tmp_path, monkeypatch, kind):
    if kind != "indexed":
        pytest.skip("the plan is read")
    plan(tmp_path, references([f"/p/{i}" for i in range(50)], source=["/p"] * 50))

    def refuse(location):
        raise AssertionError(f"{location} is read")

    monkeypatch.setattr(work_plan, "_open_anew", refuse)
    elsewhere = plan(
        tmp_path, references([f"/q/{i}" for i in range(9)], etag="2"),
        revising=Revising(whole=("/q",)),
    )  # fmt: skip
    assert (elsewhere.added, elsewhere.known, elsewhere.gone) == (9, 0, ())


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda data: data[:40] + flip(data[40:400]) + data[400:],
        lambda data: data[:-8],
        lambda data: b"",
        lambda data: data.replace(b"duckdb ", b"ducked ", 1),
        None,
    ],
)
def test_an_index_that_does_not_fit_is_made_anew(tmp_path, kind, harm):
    if kind != "indexed":
        pytest.skip("there is none")
    plan(tmp_path, references(["a", "b", "c"]))
    (index,) = tmp_path.glob("*.index")
    whole = index.read_bytes()
    if harm is None:  # it is of the file as it was before
        os.utime(next(tmp_path.glob("*.parquet")), ns=(1, 1))
    else:
        index.write_bytes(harm(whole))
    again = plan(tmp_path, references(["c", "d", "b"], etag="1"))
    assert (again.known, again.added) == (2, 1)
    assert planned_uris(tmp_path) == ["a", "b", "c", "d"]
    (file, _) = work_plan.read_plan(str(tmp_path)).files
    assert file.index and file.schema == work_plan.read_plan_file(file.location).schema


def test_many_files_of_one_size_and_time_are_compared(tmp_path):
    """As unpacked archives have: each might be any of those that are not there any more."""
    old, new = ([f"/{place}/{i}" for i in range(60_000)] for place in ("old", "new"))
    plan(tmp_path, references(old), unit_rows=512)
    again = plan(tmp_path, references(new), dry_run=True, revising=Revising(whole=("/new",)))
    assert (again.added, again.moved, again.gone) == (60_000, 0, ())


@pytest.mark.parametrize("kind", ["in pieces"], indirect=True)
def test_the_database_compares_only_what_is_not_as_it_was(tmp_path, monkeypatch, kind):
    uris = [f"/photos/{i:02d}.jpg" for i in range(40)]
    notes = [f"note {i}" for i in range(40)]
    passthrough = pa.schema([pa.field("note", pa.string())])
    plan(tmp_path, references(uris, note=notes), passthrough=passthrough, unit_rows=10)
    plan(tmp_path, references(uris[:1], etag="2"), passthrough=passthrough)  # a further revision
    compared = {}
    real = compare.Comparison.judge

    def judge(self, whole):
        answer = real(self, whole)
        for table in ("listed", "known"):
            found = self._db.execute(f"SELECT uri FROM {table} ORDER BY uri").fetchall()
            compared[table] = [uri for (uri,) in found]
        return answer

    monkeypatch.setattr(compare.Comparison, "judge", judge)
    changed = references(uris[:1], etag="2", note=notes[:1])
    noted = references(uris[1:2], note=["another"])
    moved = references(["/photos/new.jpg"], note=["x"])
    again = references([*uris[2:30], uris[5]], note=[*notes[2:30], notes[5]])
    unnoted = references(uris[30:39])  # of a list without the column
    planned = plan(
        tmp_path, changed, noted, moved, again, unnoted, passthrough=passthrough,
        revising=Revising(whole=("/photos",)),
    )  # fmt: skip
    assert (planned.listed, planned.known, planned.duplicates, planned.added) == (41, 39, 1, 1)
    assert (planned.updated, planned.gone) == (1, (uris[39],))
    # What has another note, is listed twice, is gone, or is new: it may have moved.
    assert compared["known"] == [uris[1], uris[5], uris[39]]
    assert compared["listed"] == [uris[1], uris[5], uris[5], "/photos/new.jpg"]


def test_threads_of_a_worker_read_units_of_one_plan_at_once(tmp_path):
    """Reading from one open file of Arrow's in several threads ends the process, or in an error."""
    refs = [{"uri": f"/{i:05d}", "size": 1, "etag_or_mtime": "1"} for i in range(20_000)]
    batch = pa.RecordBatch.from_pylist(refs, REF_SCHEMA)
    units = plan_units([batch], str(tmp_path), "f", passthrough=pa.schema([]), unit_rows=200).units
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        read = list(threads.map(work_plan.read_unit, list(units) * 20))
    uris = [uri for rows in read[: len(units)] for uri in rows.column("uri").to_pylist()]
    assert sorted(uris) == [ref["uri"] for ref in refs]
