"""`classify --table delta`: a version for each run, read back by the engines that read Delta."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import duckdb
import fetch_engines
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from samples import make_photos, read_rows

from imagecensus.jobs.cli import main
from imagecensus.model_export.common import fault_injection
from imagecensus.transforms.dataset import delta_table
from imagecensus.transforms.local_run import LOCAL_RUN


def classify(source, output, model, *flags) -> int:
    words = ["classify", str(source), f"--model={model}", f"--output={output}", *flags]
    return main([*words, "--unit-images=8", "--no-report"])


def report_of(output) -> dict:
    return json.loads((output / "run_report.json").read_text())


def plain(table: pa.Table) -> list[dict]:
    """Rows by uri; what a table lacks and what is null are alike."""
    rows = [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["uri"])


def by_deltalake(folder, version=None) -> pa.Table:
    return DeltaTable(folder, version=version).to_pyarrow_table()


def by_polars(folder, version=None) -> pa.Table:
    # Its own reader takes a file's arrays of fixed length for another type than Delta's.
    arrays = "embedding" in DeltaTable(folder).to_pyarrow_dataset().schema.names
    return pl.read_delta(str(folder), version=version, use_pyarrow=arrays).to_arrow()


def by_duckdb(folder, version=None) -> pa.Table:
    rows = DeltaTable(folder, version=version).to_pyarrow_dataset()  # noqa: F841
    return duckdb.sql("FROM rows").to_arrow_table()


READERS = (by_deltalake, by_duckdb, by_polars)


def check(output, versions: list[list[dict]]) -> None:
    """Every reader finds every version."""
    folder = output / "delta"
    assert DeltaTable(folder).version() == len(versions) - 1
    for number, rows in enumerate(versions):
        for reader in READERS:
            assert plain(reader(folder, number)) == rows, (reader, number)
    assert plain(by_deltalake(folder)) == versions[-1]


def seen(output) -> list[dict]:
    return plain(read_rows(output))


@pytest.mark.parametrize("commits", [10, 2])
def test_each_run_is_a_version(tiny_model, tmp_path, monkeypatch, capfd, commits):
    """New images, none, retried failures, images that are gone, and merged parts."""
    monkeypatch.setattr(delta_table, "_COMMITS", commits)  # a checkpoint after so many
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 20)
    (archive / "bad.jpg").write_bytes(b"no")
    assert classify(archive, output, tiny_model, "--table=delta") == 0
    assert f"{output}/delta, version 0 (3 files added, 0 removed)" in capfd.readouterr().out
    versions = [seen(output)]
    assert classify(archive, output, tiny_model) == 0
    assert report_of(output)["delta"] == {"version": 0, "added": 0, "removed": 0}
    make_photos(archive, 4, first=50)
    assert classify(archive, output, tiny_model) == 0
    versions.append(seen(output))
    bad, name = (archive / "bad.jpg").stat(), str(archive / "bad.jpg")
    shutil.copy(archive / "00001.jpg", name)
    os.utime(name, ns=(bad.st_mtime_ns, bad.st_mtime_ns))
    assert classify(archive, output, tiny_model, "--retry-failed") == 0
    versions.append(seen(output))
    assert report_of(output)["delta"] == {"version": 2, "added": 1, "removed": 1}
    (archive / "00003.jpg").unlink()
    assert classify(archive, output, tiny_model, "--drop-gone") == 0
    versions.append(seen(output))
    assert main(["compact", str(output)]) == 0
    versions.append(seen(output))
    assert [len(rows) for rows in versions] == [21, 25, 25, 24, 24]
    assert "truncated" not in {row["status"] for row in versions[2]}
    check(output, versions)
    assert len(DeltaTable(output / "delta").file_uris()) == 1
    history = DeltaTable(output / "delta").history()
    assert [entry["rows"] for entry in reversed(history)] == [len(rows) for rows in versions]
    assert history[0]["compacted"]
    make_photos(archive, 1, first=90)
    assert classify(archive, output, tiny_model) == 0
    check(output, [*versions, seen(output)])
    checkpoints = [name for name in os.listdir(output / "delta/_delta_log") if "point" in name]
    assert bool(checkpoints) == (commits == 2)


def test_columns_that_come_and_change(tiny_model, tmp_path):
    """Embeddings, a list's columns, further ones, and one that becomes text."""
    output, paths = tmp_path / "out", make_photos(tmp_path / "photos", 12)
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("uri,camera\n" + "".join(f"{path},{n}\n" for n, path in enumerate(paths[:8])))
    assert classify(first, output, tiny_model, "--table=delta", "--embeddings", "--gps") == 0
    versions = [seen(output)]
    lines = [f"{path},{n},2024-05-01 12:00:0{n % 10}\n" for n, path in enumerate(paths)]
    second.write_text("uri,camera,at\n" + "".join(lines))
    assert classify(second, output, tiny_model, "--embeddings", "--gps") == 0
    versions.append(seen(output))
    first.write_text(first.read_text().replace(",0\n", ",front\n"))
    assert classify(first, output, tiny_model, "--embeddings", "--gps") == 0
    versions.append(seen(output))
    assert [type(rows[0]["camera"]) for rows in versions] == [int, int, str]
    assert "at" in versions[1][-1] and len(versions[0][0]["embedding"])
    check(output, versions)


@pytest.mark.parametrize("point", ["pipeline.done", "delta.linked", "delta.committed"])
@pytest.mark.parametrize("first", [True, False])
def test_killed_around_its_commit(tiny_model, tmp_path, monkeypatch, point, first):
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 10)
    versions = []
    if not first:
        assert classify(archive, output, tiny_model, "--table=delta") == 0
        versions.append(seen(output))
        make_photos(archive, 10, first=30)

    class Killed(BaseException):
        pass

    def die(name):
        if name == point:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fault_injection, "reached", die)
        with pytest.raises(Killed):
            classify(archive, output, tiny_model, "--table=delta")
    if versions and point != "delta.committed":  # readers have seen nothing of it
        assert plain(by_deltalake(output / "delta")) == versions[0]
    assert classify(archive, output, tiny_model, "--table=delta") == 0
    versions.append(seen(output))
    check(output, versions)


def test_an_interrupted_run_commits_what_is_finished(tiny_model, tmp_path, monkeypatch):
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 40)

    def stop(name):
        if name == "part.renamed":
            LOCAL_RUN.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(fault_injection, "reached", stop)
        assert classify(archive, output, tiny_model, "--table=delta") == 130
    versions = [seen(output)]
    assert 0 < len(versions[0]) < 40
    LOCAL_RUN.stop.clear()
    assert classify(archive, output, tiny_model) == 0
    versions.append(seen(output))
    assert len(versions[1]) == 40
    check(output, versions)


def test_what_others_did_is_put_right(tiny_model, tmp_path):
    """Merged and swept by another tool; and a part that was damaged is another file."""
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 20)
    assert classify(archive, output, tiny_model, "--table=delta") == 0
    rows = seen(output)
    table = DeltaTable(output / "delta")
    table.optimize.compact()
    table.delete("status = 'ok'")
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert by_deltalake(output / "delta").num_rows == 0
    assert classify(archive, output, tiny_model) == 0
    assert plain(by_deltalake(output / "delta")) == rows == seen(output)
    part = min((output / "predictions").iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    assert classify(archive, output, tiny_model, "--verify=all") == 0
    assert plain(by_deltalake(output / "delta")) == rows == seen(output)


def test_files_of_former_versions_go_when_their_time_is_over(tiny_model, tmp_path):
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 20)
    assert classify(archive, output, tiny_model, "--table=delta") == 0
    before = set(os.listdir(output / "delta"))
    assert main(["compact", str(output)]) == 0
    assert before < set(os.listdir(output / "delta"))
    assert os.stat(next((output / "predictions").iterdir())).st_nlink == 2
    DeltaTable(output / "delta").alter.set_table_properties(
        {"delta.deletedFileRetentionDuration": "interval 0 seconds"}
    )
    make_photos(archive, 1, first=40)
    assert classify(archive, output, tiny_model) == 0
    assert before & set(os.listdir(output / "delta")) == {"_delta_log"}
    assert plain(by_deltalake(output / "delta")) == seen(output)


def test_what_is_refused_before_any_work(tiny_model, tmp_path, monkeypatch, capfd):
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 3)
    assert classify(archive, output, tiny_model, "--table=delta", "--shard=0/2") == 2
    assert "--table is for a run over everything" in capfd.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "deltalake", None)
        assert classify(archive, output, tiny_model, "--table=delta") == 2
        assert "pip install 'imagecensus[delta]'" in capfd.readouterr().err
        assert not output.exists()
        assert classify(archive, output, tiny_model) == 0
    assert classify(archive, output, tiny_model, "--table=delta") == 0
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "deltalake", None)
        assert main(["compact", str(output)]) == 2
        assert "pip install 'imagecensus[delta]'" in capfd.readouterr().err
    log = output / "delta" / "_delta_log" / f"{0:020d}.json"
    log.write_text("{")
    assert classify(archive, output, tiny_model) == 2
    assert "remove this folder" in capfd.readouterr().err
    shutil.rmtree(output / "delta")
    assert classify(archive, output, tiny_model, "--table=delta") == 0
    check(output, [seen(output)])


_BY_DUCKDB = """
import duckdb, sys
database = duckdb.connect()
database.execute(f"LOAD '{sys.argv[1]}'")
for version, target in enumerate(sys.argv[3:]):
    scan = f"delta_scan('{sys.argv[2]}', version => {version})"
    database.execute(f"COPY (FROM {scan}) TO '{target}' (FORMAT parquet)")
"""


def test_duckdbs_own_reader(tiny_model, tmp_path):
    """`delta_scan`, by the DuckDB that its extension is made for: 1.5, while ours is 2.

    For that the extension is not published; `make duckdb-delta` says which versions it installs.
    """
    home = fetch_engines.DUCKDB_DELTA
    extension = next(home.glob("duckdb_extension_delta/extensions/*/delta.duckdb_extension"), None)
    if extension is None:
        pytest.skip("no DuckDB with its extension for Delta; make duckdb-delta installs it")
    archive, output = tmp_path / "photos", tmp_path / "out"
    make_photos(archive, 20)
    assert classify(archive, output, tiny_model, "--table=delta", "--embeddings") == 0
    versions = [seen(output)]
    (archive / "bad.jpg").write_bytes(b"no")
    assert classify(archive, output, tiny_model, "--embeddings") == 0
    versions.append(seen(output))
    read = [tmp_path / f"{number}.parquet" for number in range(len(versions))]
    subprocess.run(
        [sys.executable, "-c", _BY_DUCKDB, extension, output / "delta", *read],
        env={**os.environ, "PYTHONPATH": str(home)}, check=True, timeout=60,
    )  # fmt: skip
    assert [plain(pq.read_table(path)) for path in read] == versions
