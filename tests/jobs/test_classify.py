"""Whole runs of `imagecensus classify` on small nasty archives."""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packing import pack
from samples import SHARED_DATA, make_photos, photo, read_rows

from imagecensus.jobs import classify as jobs_classify
from imagecensus.jobs.cli import main
from imagecensus.transforms.dataset import checksum
from imagecensus.transforms.image_ref import ImageRef

ROOT = pathlib.Path(__file__).parents[2]


def classify(*args, model=None, output=None, page=False) -> int:
    words = ["classify", *map(str, args), *([] if page else ["--no-report"])]
    if model:
        words += ["--model", model]
    if output:
        words += ["--output", str(output)]
    return main(words)


def report_of(output) -> dict:
    return json.loads((pathlib.Path(output) / "run_report.json").read_text())


def totals_of(output) -> dict:
    totals = report_of(output)["totals"]
    assert totals["balanced"]
    return totals


@pytest.fixture
def archive(tmp_path):
    """12 photos in nested folders, and 3 files that are none."""
    folder = tmp_path / "archive"
    make_photos(folder / "2019", 6)
    make_photos(folder / "2020" / "may", 6, first=6)
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "2019" / "cut.jpg").write_bytes((folder / "2019" / "00001.jpg").read_bytes()[:400])
    return folder


def test_a_folder_becomes_a_table_and_balanced_totals(archive, tiny_model, tmp_path, capsys):
    output = tmp_path / "out"
    assert classify(archive, model=tiny_model, output=output, page=True) == 0
    table = read_rows(output)
    assert table.num_rows == 15
    assert table.column("uri").to_pylist() == sorted(
        str(p) for p in archive.rglob("*") if p.is_file()
    )
    totals = totals_of(output)
    assert (totals["listed"], totals["predicted"], totals["failed"]) == (15, 12, 3)
    report = report_of(output)
    assert report["statuses"] == {
        "ok": 12, "not_an_image": 1, "truncated": 1, "empty_file": 1,
    }  # fmt: skip
    assert sum(report["labels"].values()) == 12
    assert report["versions"]["imagecensus"] and report["rates"]["images"] == 15
    said = capsys.readouterr().out
    assert "15 images = 12 predicted + 3 failed  (balanced)" in said
    assert len(said.splitlines()) < 15
    assert f"look at    {output}/report.html" in said


def test_pandas_polars_duckdb_and_pyarrow_read_the_same_table(archive, tiny_model, tmp_path):
    import duckdb
    import pandas
    import polars
    import pyarrow.dataset

    output = tmp_path / "out"
    classify(archive, "--unit-images=4", model=tiny_model, output=output)
    folder = f"{output}/predictions"
    expected = read_rows(output).select(["uri", "status", "label", "score"]).to_pylist()
    columns = ["uri", "status", "label", "score"]
    by_duckdb = duckdb.sql(
        f"SELECT uri, status, label, score FROM '{folder}/*.parquet' ORDER BY uri"
    ).fetchall()
    by_polars = polars.read_parquet(folder).select(columns).sort("uri").rows()
    frame = pandas.read_parquet(folder)[columns].sort_values("uri").astype(object)
    by_pandas = [
        tuple(None if pandas.isna(v) else v for v in row)
        for row in frame.itertuples(index=False, name=None)
    ]
    by_dataset = pyarrow.dataset.dataset(folder).to_table(columns=columns).sort_by("uri")
    wanted = [tuple(row.values()) for row in expected]
    assert by_duckdb == wanted
    assert by_polars == wanted
    assert by_pandas == wanted
    assert by_dataset.to_pylist() == expected
    sums = duckdb.sql(
        f"SELECT sum(t.score) FROM (SELECT unnest(top_k) t FROM '{folder}/*.parquet')"
    ).fetchall()
    assert sums[0][0] == pytest.approx(12, abs=1e-3)  # 12 images, 4 classes each: all of softmax


def test_a_rerun_redoes_nothing_and_picks_up_what_is_new(archive, tiny_model, tmp_path, capsys):
    output = tmp_path / "out"
    classify(archive, "--unit-images=4", model=tiny_model, output=output)
    before = {p: p.stat().st_mtime_ns for p in (output / "predictions").iterdir()}
    assert classify(archive, model=tiny_model, output=output) == 0
    assert "nothing new to classify" in capsys.readouterr().out
    photo(99).save(archive / "new.png")
    assert classify(archive, model=tiny_model, output=output) == 0
    totals = totals_of(output)
    assert (totals["added"], totals["already_listed"], totals["rows"]) == (1, 15, 16)
    assert report_of(output)["rates"]["images"] == 1
    after = {p: p.stat().st_mtime_ns for p in (output / "predictions").iterdir()}
    assert before.items() < after.items() and len(after) == len(before) + 1


def test_retry_failed_redoes_only_failed_rows(archive, tiny_model, tmp_path):
    output = tmp_path / "out"
    classify(archive, "--unit-images=5", model=tiny_model, output=output)
    before = {row["uri"]: row for row in read_rows(output).to_pylist()}
    photo(50).save(archive / "empty.png")  # it is an image now
    for path in archive.rglob("0*.jpg"):
        path.unlink()  # the good ones must not be read again
    assert classify(archive, "--retry-failed", model=tiny_model, output=output) == 0
    rows = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert rows.keys() == before.keys()
    changed = {uri for uri in rows if rows[uri] != before[uri]}
    assert changed == {str(archive / "empty.png")}
    assert rows[str(archive / "empty.png")]["status"] == "ok"
    assert totals_of(output)["failed"] == 2
    assert report_of(output)["rates"]["images"] == 3


@pytest.mark.parametrize("change", ["model", "top_k", "embeddings", "max_pixels"])
def test_another_recipe_is_refused_and_named(
    archive, tiny_model, other_model, tmp_path, capsys, change
):
    output = tmp_path / "out"
    classify(archive, "--top-k=3", model=tiny_model, output=output)
    before = sorted((output / "predictions").iterdir())
    capsys.readouterr()
    args, model = [archive, "--top-k=3"], tiny_model
    if change == "model":
        model = other_model
    elif change == "top_k":
        args[1] = "--top-k=2"
    elif change == "embeddings":
        args.append("--embeddings")
    else:
        args.append("--max-pixels=1000")
    assert classify(*args, model=model, output=output) == 2
    said = capsys.readouterr().err
    assert f"({change}: " in said and "never mixed" in said
    assert sorted((output / "predictions").iterdir()) == before
    assert "Traceback" not in said


def test_a_limit_may_be_raised_and_what_was_too_large_is_retried(tiny_model, tmp_path, capsys):
    paths = make_photos(tmp_path / "in", 3)
    limit = sorted(os.path.getsize(path) for path in paths)[1]
    output = tmp_path / "out"
    arguments = {"model": tiny_model, "output": output}
    assert classify(tmp_path / "in", f"--max-bytes={limit}", **arguments) == 0
    assert report_of(output)["statuses"] == {"ok": 2, "too_large": 1}
    assert classify(tmp_path / "in", "--max-bytes=1M", "--retry-failed", **arguments) == 0
    assert report_of(output)["statuses"] == {"ok": 3} and report_of(output)["rates"]["images"] == 1
    capsys.readouterr()
    assert classify(tmp_path / "in", f"--max-bytes={limit}", **arguments) == 2
    assert "max_bytes: 1048576 there" in capsys.readouterr().err


def test_an_output_among_the_images_is_listed_by_no_run(tiny_model, tmp_path):
    """`cd photos && imagecensus classify . --output .`, and that folder for another output."""
    make_photos(tmp_path, 3)
    for _ in range(2):
        assert classify(tmp_path, model=tiny_model, output=tmp_path, page=True) == 0
    totals = totals_of(tmp_path)
    assert (totals["rows"], totals["predicted"], totals["failed"]) == (3, 3, 0)
    assert classify(tmp_path, model=tiny_model, output=tmp_path.parent / "other") == 0
    assert totals_of(tmp_path.parent / "other")["rows"] == 3
    assert totals_of(tmp_path.parent / "other")["left_out"]["own"] == 1


def test_units_of_which_every_image_is_gone_are_dropped(tiny_model, tmp_path):
    paths = make_photos(tmp_path / "in", 5)
    arguments = {"model": tiny_model, "output": tmp_path / "out"}
    assert classify(tmp_path / "in", "--unit-images=2", **arguments) == 0
    for gone in (paths[:2], paths[2:3]):
        for path in gone:
            os.unlink(path)
        assert classify(tmp_path / "in", "--drop-gone", **arguments) == 0
        assert totals_of(tmp_path / "out")["balanced"]
    assert [row["uri"] for row in read_rows(tmp_path / "out").to_pylist()] == paths[3:]
    make_photos(tmp_path / "in", 5)  # and come again
    assert classify(tmp_path / "in", **arguments) == 0
    assert totals_of(tmp_path / "out")["rows"] == 5


def test_embeddings_are_a_fixed_size_column(archive, tiny_model, tmp_path):
    output = tmp_path / "out"
    classify(archive, "--embeddings", model=tiny_model, output=output)
    column = read_rows(output).column("embedding")
    assert column.type == pa.list_(pa.float32(), 16)
    vectors = np.array(column.to_pylist(), float)
    assert vectors.shape == (15, 16) and np.isnan(vectors).all(1).sum() == 3
    # The same numbers for pandas and DuckDB, and the other columns are those of a run without.
    by_pandas = pd.read_parquet(output / "predictions").sort_values("uri")["embedding"]
    np.testing.assert_array_equal(np.stack(by_pandas).astype(float), vectors)
    asked = duckdb.sql(f"SELECT embedding FROM '{output}/predictions/*.parquet' ORDER BY uri")
    np.testing.assert_array_equal(np.array([row[0] for row in asked.fetchall()], float), vectors)
    classify(archive, model=tiny_model, output=tmp_path / "without")
    assert read_rows(tmp_path / "without").equals(read_rows(output).drop_columns("embedding"))


def test_manifest_columns_reach_the_output(archive, tiny_model, tmp_path):
    paths = sorted(str(p) for p in archive.rglob("0*.jpg"))
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "file,label,camera\n" + "".join(f"{p},truth{i},north\n" for i, p in enumerate(paths))
        + "gone.jpg,x,south\n"
    )  # fmt: skip
    output = tmp_path / "out"
    assert classify(manifest, archive / "broken.jpg", model=tiny_model, output=output) == 0
    rows = {os.path.basename(row["uri"]): row for row in read_rows(output).to_pylist()}
    assert len(rows) == 14
    assert rows["00003.jpg"]["manifest_label"] == "truth3"
    assert rows["gone.jpg"]["status"] == "not_found" and rows["gone.jpg"]["camera"] == "south"
    assert rows["broken.jpg"]["camera"] is None


def test_overlapping_inputs_give_one_row_each(archive, tiny_model, tmp_path):
    output = tmp_path / "out"
    classify(
        archive, archive / "2019", archive / "2019" / "0*.jpg", model=tiny_model, output=output
    )
    totals = totals_of(output)
    assert (totals["listed"], totals["duplicates"], totals["rows"]) == (15 + 7 + 6, 13, 15)


def test_limit_then_the_rest(archive, tiny_model, tmp_path):
    output = tmp_path / "out"
    classify(archive, "--limit=5", model=tiny_model, output=output)
    assert totals_of(output)["rows"] == 5
    classify(archive, model=tiny_model, output=output)
    assert totals_of(output)["rows"] == 15


def test_shards_into_one_output_make_the_same_table(archive, tiny_model, tmp_path):
    classify(archive, model=tiny_model, output=tmp_path / "whole")
    output = tmp_path / "out"
    any_rate = ["--max-failure-rate=1"]  # a shard of five may hold mostly broken files
    for index in (2, 0, 1):
        assert (
            classify(archive, f"--shard={index}/3", *any_rate, model=tiny_model, output=output) == 0
        )
    assert read_rows(output).equals(read_rows(tmp_path / "whole"))
    reports = [json.loads(p.read_text()) for p in output.glob("run_report-s?of3.json")]
    assert sum(report["totals"]["rows"] for report in reports) == 15
    assert all(report["totals"]["balanced"] for report in reports)
    # A run over everything takes over what the shards did.
    assert classify(archive, model=tiny_model, output=output) == 0
    assert totals_of(output)["rows"] == 15 and report_of(output)["rates"]["images"] == 0


def test_shards_run_side_by_side_but_not_beside_a_whole_run(archive, tiny_model, tmp_path, capsys):
    from imagecensus.transforms.dataset.layout import Layout

    output = tmp_path / "out"
    any_rate = ["--max-failure-rate=1"]  # a shard of five may hold mostly broken files
    classify(archive, "--shard=0/2", *any_rate, model=tiny_model, output=output)
    with Layout(output=str(output), shard=(0, 2)).locked():
        assert classify(archive, "--shard=1/2", *any_rate, model=tiny_model, output=output) == 0
        assert classify(archive, "--shard=0/2", *any_rate, model=tiny_model, output=output) == 2
        capsys.readouterr()
        assert classify(archive, model=tiny_model, output=output) == 2
        assert "another run is writing to this output" in capsys.readouterr().err
    with Layout(output=str(output)).locked():
        assert classify(archive, "--shard=1/2", *any_rate, model=tiny_model, output=output) == 2
    assert classify(archive, model=tiny_model, output=output) == 0
    assert totals_of(output)["rows"] == 15


def test_dry_run_counts_and_writes_nothing(archive, tiny_model, tmp_path, capsys):
    output = tmp_path / "out"
    assert classify(archive, "--dry-run", model=tiny_model, output=output) == 0
    assert "would classify 15 images" in capsys.readouterr().out
    assert not output.exists()
    classify(archive / "2019", model=tiny_model, output=output)
    capsys.readouterr()
    assert classify(archive, "--dry-run", model=tiny_model, output=output) == 0
    assert "would classify 8 images" in capsys.readouterr().out


def test_odd_files_each_cost_one_row(tiny_model, tmp_path, ordinary_user):
    folder = tmp_path / "odd"
    make_photos(folder, 2)
    odd = os.fsencode(folder)
    with open(odd + b"/latin\xe9\n.jpg", "wb") as file:
        file.write((folder / "00000.jpg").read_bytes())
    (folder / "page.jpg").write_text("<html>404</html>")
    (folder / "broken.jpg").symlink_to("gone")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    assert classify(folder, model=tiny_model, output=tmp_path / "out", page=True) == 0
    rows = {
        os.path.basename(r["uri"]): r["status"] for r in read_rows(tmp_path / "out").to_pylist()
    }
    assert rows == {
        "00000.jpg": "ok",
        "00001.jpg": "ok",
        "latin%E9%0A.jpg": "ok",
        "page.jpg": "not_an_image",
        "broken.jpg": "not_found",
    }


def test_unreadable_files_and_folders_cost_one_row(ordinary_user, tmp_path):
    import tempfile

    from imagecensus.model_export.image_formats import ImageError
    from imagecensus.transforms.read_images import read_image

    def status(path):
        try:
            read_image(ImageRef(uri=path))
        except ImageError as error:
            return error.status
        return "ok"

    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        paths = make_photos(f"{top}/a", 2)
        os.chmod(paths[0], 0)
        os.mkdir(f"{top}/locked", mode=0)
        os.mkfifo(f"{top}/pipe")
        os.chmod(f"{top}/pipe", 0o666)
        asked = [*paths, f"{top}/locked", f"{top}/pipe", f"{top}/a", f"{paths[1]}/x", f"{top}/no"]
        found = ordinary_user(lambda: [status(path) for path in asked])
    assert found == [
        "permission_denied", "ok", "permission_denied", "not_an_image", "not_an_image",
        "not_found", "not_found",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["{archive}", "--top-k=0"], "--top-k must be at least 1"),
        (["{archive}", "--shard=3/3"], "--shard=3/3: I must be from 0 to N-1"),
        (["{archive}", f"--shard=1/{10**20}"], "N at most 1,000,000"),
        (["{archive}", "--max-bytes=many"], "--max-bytes=many: write a number"),
        (["{archive}", "--outptu=x"], "unknown argument --outptu; did you mean --output?"),
        (["{archive}", "--engine=onnx"], "--engine=onnx: choose one of"),
        (["{archive}", "--model=/nowhere"], "/nowhere: no such model folder"),
        (["{archive}", "--weights=w.h5"], "--weights is for the default model"),
        (["{archive}", "--precision=f8"], "--precision=f8"),
        (["{empty}"], "no images there"),
    ],
)
def test_mistakes_end_with_a_sentence(archive, tiny_model, tmp_path, capsys, args, message):
    (tmp_path / "empty").mkdir()
    words = [a.format(archive=archive, empty=tmp_path / "empty") for a in args]
    if not any(word.startswith("--model") for word in words):
        words.append(f"--model={tiny_model}")
    assert classify(*words, output=tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_all_problems_are_reported_at_once(capsys):
    assert main(["classify", "nowhere", "--top-k=0", "--limit=0"]) == 2
    said = capsys.readouterr().err
    for part in ("nowhere: no such file", "--output is missing", "--top-k must", "--limit must"):
        assert part in said


def test_too_many_failures_exit_with_1(archive, tiny_model, tmp_path, capsys):
    output = tmp_path / "out"
    assert classify(archive, "--max-failure-rate=0.1", model=tiny_model, output=output) == 1
    assert "3 of 15 images failed, more than --max-failure-rate=0.1" in capsys.readouterr().err
    assert totals_of(output)["rows"] == 15


def test_text_and_video_are_no_failed_images(tiny_model, tmp_path, capsys):
    make_photos(tmp_path / "in", 2)
    for name in ("README.md", "stats.json", "MVI_7.MP4", "00001.json", "zeroed.jpg"):
        (tmp_path / "in" / name).write_bytes(b"\0" * 200)
    output = tmp_path / "out"
    assert classify(tmp_path / "in", model=tiny_model, output=output) == 0
    said = capsys.readouterr().out
    assert "left out   1 sidecar\n" in said
    assert "6 files = 2 predicted + 1 failed + 3 that are no images  (balanced)" in said
    totals = totals_of(output)
    assert totals["left_out"] == {"sidecars": 1} and totals["not_images"] == 3
    assert (
        classify(
            tmp_path / "in", "--max-failure-rate=0.3", "--exclude", "README*", model=tiny_model,
            output=output,
        )
        == 1
    )  # fmt: skip
    assert "1 of 3 images failed" in capsys.readouterr().err
    assert totals_of(output)["left_out"] == {"sidecars": 1, "excluded": 1}
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    assert classify(tmp_path / "texts", model=tiny_model, output=tmp_path / "none") == 1
    assert "no image among 1 file;" in capsys.readouterr().err
    with_nothing = ("--include", "*.png")
    assert classify(tmp_path / "texts", *with_nothing, model=tiny_model, output=output) == 2
    assert "no images there; left out by rule: 1 excluded" in capsys.readouterr().err


def command(archive, model, output, *args) -> list[str]:
    words = ["classify", str(archive), "--model", model, "--output", str(output), *args]
    words += ["--no-report"]
    return [sys.executable, "-m", "imagecensus.jobs.cli", *words]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def part_count(output) -> int:
    folder = pathlib.Path(output) / "predictions"
    return len(list(folder.glob("part-*"))) if folder.is_dir() else 0


@pytest.fixture(scope="module")
def large_archive(tmp_path_factory, tiny_model):
    """800 images and the table of an uninterrupted run over them."""
    top = tmp_path_factory.mktemp("large")
    make_photos(top / "archive", 40)
    for copy in range(1, 20):
        for path in (top / "archive").glob("000[0-3]?.jpg"):
            os.link(path, path.with_name(f"{copy}-{path.name}"))
    (top / "archive" / "broken.jpg").write_bytes(b"no")
    classify(top / "archive", "--unit-images=8", model=tiny_model, output=top / "whole")
    return top / "archive", read_rows(top / "whole")


@pytest.mark.parametrize("parts_done", [0, 1, 20, 70])
def test_a_killed_run_resumes_to_the_same_table(large_archive, tiny_model, tmp_path, parts_done):
    archive, whole = large_archive
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(archive, tiny_model, output, "--unit-images=8"), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: part_count(output) >= parts_done and (output / "_imagecensus").is_dir())
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = part_count(output)
    assert done < 101, "the run was over before it was killed"
    stamps = {p: p.stat().st_mtime_ns for p in (output / "predictions").glob("part-*")}
    assert classify(archive, "--unit-images=8", model=tiny_model, output=output) == 0
    assert read_rows(output).equals(whole)
    assert totals_of(output)["rows"] == 801
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())  # none redone
    leftovers = [p for p in output.rglob("*") if ".tmp" in p.name]
    assert not leftovers


def test_ctrl_c_commits_the_unit_and_tells_how_to_resume(large_archive, tiny_model, tmp_path):
    archive, whole = large_archive
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(archive, tiny_model, output, "--unit-images=8"), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: part_count(output) >= 3)
    process.send_signal(signal.SIGINT)
    _said, complained = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in complained and "Traceback" not in complained
    report = report_of(output)
    assert report["interrupted"] and report["totals"]["balanced"]
    assert report["totals"]["rows"] + report["totals"]["pending"] == 801
    assert classify(archive, "--unit-images=8", model=tiny_model, output=output) == 0
    assert read_rows(output).equals(whole)


def test_two_runs_at_once_the_second_refuses(large_archive, tiny_model, tmp_path):
    archive, whole = large_archive
    output = tmp_path / "out"
    runs = [
        subprocess.Popen(
            command(archive, tiny_model, output, "--unit-images=8"), cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    complaints = [run.communicate(timeout=120)[1] for run in runs]
    codes = sorted(run.returncode for run in runs)
    assert codes in ([0, 0], [0, 2])  # [0, 0]: the second started after the first had ended
    if codes == [0, 2]:
        assert any("another run is writing to this output" in text for text in complaints)
    assert read_rows(output).equals(whole)
    totals_of(output)


@pytest.mark.real_data
def test_all_awkward_files_become_rows(tiny_model, tmp_path):
    output = tmp_path / "out"
    folder = SHARED_DATA / "awkward"
    rate = "--max-failure-rate=1"
    assert classify(folder, rate, model=tiny_model, output=output, page=True) == 0
    files = [
        p for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]  # fmt: skip
    assert read_rows(output).num_rows == len(files)
    assert report_of(output)["statuses"]["ok"] > 90


def test_a_rerun_looks_again_at_what_changed_came_and_went(archive, tiny_model, tmp_path, capsys):
    output = tmp_path / "out"
    classify(archive, "--unit-images=4", model=tiny_model, output=output)
    before = {row["uri"]: row for row in read_rows(output).to_pylist()}
    changed, gone = archive / "2019" / "00002.jpg", archive / "2019" / "00003.jpg"
    photo(77, (120, 90)).save(changed)
    photo(78).save(archive / "empty.png")  # a failed one, copied again
    gone.unlink()
    photo(79).save(archive / "new.jpg")
    assert classify(archive, model=tiny_model, output=output) == 0
    said = capsys.readouterr().out
    assert "listed     15 = 1 new + 12 known + 2 changed + 0 duplicates" in said
    assert "gone       1 image not listed any more" in said
    totals = totals_of(output)
    assert (totals["changed"], totals["gone"], totals["rows"]) == (2, 1, 16)
    assert report_of(output)["rates"]["images"] == 3
    rows = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert rows[str(changed)]["width"] == 120
    assert rows[str(changed)]["etag_or_mtime"] == str(changed.stat().st_mtime_ns)
    assert rows[str(archive / "empty.png")]["status"] == "ok"
    untouched = before.keys() - {str(changed), str(archive / "empty.png")}
    assert all(rows[uri] == before[uri] for uri in untouched)
    assert classify(archive, "--drop-gone", model=tiny_model, output=output) == 0
    assert report_of(output)["rates"]["images"] == 0, "nothing is classified for a removal"
    rows = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert len(rows) == totals_of(output)["rows"] == 15 and str(gone) not in rows
    classify(archive, model=tiny_model, output=output)
    assert totals_of(output)["gone"] == 0 and report_of(output)["rates"]["images"] == 0


def test_a_run_that_was_taken_over_leaves_the_other_runs_parts(
    archive, tiny_model, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "out"
    classify(archive, model=tiny_model, output=output)
    photo(78).save(archive / "empty.png")

    def sleep_through_another_run(job, work):
        """In its place: another run does the work, and more."""
        os.unlink(job.layout.lock)
        subprocess.run(command(archive, tiny_model, output), check=True)
        photo(77).save(archive / "broken.jpg")
        subprocess.run(command(archive, tiny_model, output), check=True)

    monkeypatch.setattr(jobs_classify, "run_work", sleep_through_another_run)
    assert classify(archive, model=tiny_model, output=output) == 2
    monkeypatch.undo()
    assert "taken over by another run" in capsys.readouterr().err
    statuses = read_rows(output).column("status").to_pylist()
    assert len(statuses) == 15 and statuses.count("ok") == 14
    assert classify(archive, model=tiny_model, output=output) == 0
    assert report_of(output)["rates"]["images"] == 0


def test_a_moved_archive_takes_its_rows_along(archive, tiny_model, tmp_path, capsys):
    output, moved = tmp_path / "out", tmp_path / "elsewhere" / "archive"
    classify(archive, "--unit-images=4", model=tiny_model, output=output)
    before = {row["uri"]: row for row in read_rows(output).to_pylist()}
    (archive / "2019" / "00003.jpg").unlink()
    moved.parent.mkdir()
    archive.rename(moved)
    photo(79).save(moved / "new.jpg")
    relocated = ["--relocate", str(archive), f"{moved}/"]
    classify(moved, *relocated, "--dry-run", model=tiny_model, output=output)
    assert "would classify 1 image in " in capsys.readouterr().out
    assert classify(moved, *relocated, model=tiny_model, output=output) == 0
    totals = totals_of(output)
    assert (totals["added"], totals["already_listed"], totals["moved"]) == (1, 14, 15)
    assert (totals["gone"], totals["rows"], report_of(output)["rates"]["images"]) == (1, 16, 1)
    lost = str(moved / "2019" / "00003.jpg")
    assert (output / "gone.csv").read_text().splitlines() == ["uri", lost]
    after = {row["uri"]: row for row in read_rows(output).to_pylist()}
    for uri, row in before.items():
        here = str(moved) + uri.removeprefix(str(archive))
        assert after[here] == row | {"uri": here}
    assert len(after) == 16
    assert classify(moved, "--drop-gone", model=tiny_model, output=output) == 0
    assert totals_of(output)["rows"] == 15
    assert classify(moved, model=tiny_model, output=output) == 0
    assert not (output / "gone.csv").exists()


def test_a_list_that_is_corrected_corrects_the_table(archive, tiny_model, tmp_path, capsys):
    output, survey = tmp_path / "out", tmp_path / "survey.csv"
    paths = sorted(str(p) for p in archive.rglob("0*.jpg"))
    survey.write_text("path,plot\n" + "".join(f"{p},A{i}\n" for i, p in enumerate(paths)))
    assert classify(survey, "--unit-images=5", model=tiny_model, output=output) == 0
    before = {row["uri"]: row for row in read_rows(output).to_pylist()}
    lines = [f"{p},A{i},me" for i, p in enumerate(paths)]
    lines[2], lines[7] = f"{paths[2]},B2,you", f"{paths[7]},A7,"
    survey.write_text("path,plot,observer\n" + "\n".join(lines) + "\n")
    assert classify(survey, model=tiny_model, output=output) == 0
    assert totals_of(output)["updated"] == 11  # one has a blank, as it had before
    assert report_of(output)["rates"]["images"] == 0
    after = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert after[paths[2]] == before[paths[2]] | {"plot": "B2", "observer": "you"}
    assert after[paths[3]] == before[paths[3]] | {"observer": "me"}
    assert classify(archive, model=tiny_model, output=output) == 0  # a folder says nothing of them
    assert totals_of(output)["updated"] == 0
    again = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert again[paths[2]]["observer"] == "you"


def test_a_folder_that_cannot_be_listed_is_a_row_until_it_can(
    archive, tiny_model, tmp_path, monkeypatch, capsys
):
    from imagecensus.transforms.inputs import files

    real = files._entries

    def breaks_off(path):
        names, error = real(path)
        if path.endswith(b"may"):
            return names[:3], OSError(5, "Input/output error")
        return names, error

    output = tmp_path / "out"
    monkeypatch.setattr(files, "_entries", breaks_off)
    assert classify(archive, model=tiny_model, output=output) == 1
    assert "2020/may could not be listed" in capsys.readouterr().err
    row = {r["uri"]: r for r in read_rows(output).to_pylist()}[str(archive / "2020" / "may")]
    assert row["status"] == "read_error" and "(EIO) after 3 entries" in row["error"]
    assert totals_of(output)["rows"] == 13
    monkeypatch.setattr(files, "_entries", real)
    assert classify(archive, model=tiny_model, output=output) == 0
    assert totals_of(output)["rows"] == 15
    monkeypatch.setattr(files, "_entries", breaks_off)
    assert classify(archive, "--drop-gone", model=tiny_model, output=output) == 1
    assert totals_of(output)["gone"] == 0, "what could not be listed is not gone"
    assert totals_of(output)["rows"] == 16


def test_a_column_that_becomes_text_is_text_in_the_whole_table(archive, tiny_model, tmp_path):
    paths = sorted(str(path) for path in archive.rglob("*.jpg"))[:3]
    output, where = tmp_path / "out", tmp_path / "list.csv"

    def run(*rows) -> list[tuple]:
        where.write_text("\n".join(["path,plot,seen", *rows]) + "\n")
        assert classify(where, "--unit-images=1", model=tiny_model, output=output) == 0
        table = duckdb.read_parquet(f"{output}/predictions/*.parquet").order("uri")
        return table.project("plot, CAST(seen AS VARCHAR)").fetchall()

    first = f"{paths[0]},1,2024-01-31 08:00:00"
    assert run(first) == [(1, "2024-01-31 08:00:00")]
    # An empty column says nothing of its type.
    assert run(first, f"{paths[1]},,") == [(1, "2024-01-31 08:00:00"), (None, None)]
    rows = run(first, f"{paths[1]},2,", f"{paths[2]},A2,unknown")
    assert rows == [("1", "2024-01-31 08:00:00"), ("2", None), ("A2", "unknown")]
    assert report_of(output)["rates"]["images"] == 1
    assert run(f"{paths[0]},3,2024-01-31 08:00:00")[0] == ("3", "2024-01-31 08:00:00")


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 0, 2], [0, 1, 2, 2]])
def test_rows_lost_doubled_or_swapped_are_found_and_said(tiny_model, tmp_path, capsys, order):
    make_photos(tmp_path / "in", 3)
    output = tmp_path / "out"
    assert classify(tmp_path / "in", model=tiny_model, output=output) == 0
    before = read_rows(output)
    (part,) = (output / "predictions").glob("*.parquet")
    whole = pq.read_table(part)
    spoiled = pq.read_table(part).take(order)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, spoiled.schema) as writer:
        writer.write_table(spoiled)
        writer.add_key_value_metadata({checksum.KEY: checksum.EMPTY})
    part.write_bytes(checksum.add_checksum(sink.getvalue()))  # a whole file, as such
    assert pq.read_table(part).num_rows == len(order) and whole.num_rows == 3
    capsys.readouterr()
    assert classify(tmp_path / "in", model=tiny_model, output=output) == 0
    said = capsys.readouterr().out
    assert "damaged    1 part did not hold the rows of their units" in said
    assert read_rows(output).drop_columns(["top_k"]) == before.drop_columns(["top_k"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-bytes", "-5"), "--max-bytes=-5: write a number above 0"),
        (("--max-bytes", "0"), "--max-bytes=0: write a number above 0"),
        (("--max-bytes", "inf"), "--max-bytes=inf: write a number above 0"),
        (("--decode-memory", "nan"), "--decode-memory=nan: write a number above 0"),
        (("--zip-encoding", "klingon"), "--zip-encoding=klingon: no encoding"),
    ],
)
def test_values_that_mean_nothing_are_refused_as_given(
    archive, tiny_model, tmp_path, capsys, flags, said
):
    assert classify(archive, *flags, model=tiny_model, output=tmp_path / "out") == 2
    assert said in capsys.readouterr().err


def test_images_that_only_moved_keep_their_rows(tiny_model, tmp_path, capsys):
    disk, output = tmp_path / "disk1", tmp_path / "out"
    paths = [pathlib.Path(path) for path in make_photos(disk, 5)]
    assert classify(disk, model=tiny_model, output=output) == 0
    before = read_rows(output).to_pylist()
    # The disk has another name; one file, too; one is rotated since, one copied and one deleted.
    times = paths[2].stat()
    os.rename(disk, tmp_path / "disk2")
    disk = tmp_path / "disk2"
    os.rename(disk / paths[0].name, disk / "renamed.jpg")
    changed = bytearray((disk / paths[2].name).read_bytes())
    changed[-3] ^= 1
    (disk / paths[2].name).write_bytes(changed)
    os.utime(disk / paths[2].name, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.copy2(disk / paths[3].name, disk / "copy.jpg")
    os.unlink(disk / paths[4].name)
    capsys.readouterr()
    assert classify(disk, model=tiny_model, output=output) == 0
    said = capsys.readouterr().out
    assert "moved      3 rows went along with what moved" in said
    assert "listed     5 = 2 new + 3 known" in said
    after = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert len(after) == 7 and report_of(output)["rates"]["images"] == 2
    for row, name in zip((before[0], before[1]), ("renamed.jpg", paths[1].name), strict=True):
        assert after[str(disk / name)] == row | {"uri": str(disk / name)}
    assert str(paths[4]) in after and str(paths[2]) in after  # what became of them is not known
    assert classify(disk, model=tiny_model, output=output) == 0
    assert "listed     5 = 0 new + 5 known" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["tar", "zip", "tar.gz", "tfrecord", "parquet"])
def test_members_of_an_archive_that_was_renamed_keep_their_rows(kind, tiny_model, tmp_path, capsys):
    disk, output = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    photos = [pathlib.Path(path) for path in make_photos(tmp_path / "photos", 12)]
    files = [(path.name, path.read_bytes()) for path in photos]
    for name, some in (("a", files[:4]), ("b", files[4:8]), ("c", files[8:])):
        pack(kind, [*some, (f"{name}.txt", b"no image")], disk / f"{name}.{kind}")
    assert classify(disk, model=tiny_model, output=output) == 0
    before = {row["uri"]: row for row in read_rows(output).to_pylist()}
    # One has another name, one another folder; a third, too, and bytes of the same length and time.
    os.rename(disk / f"a.{kind}", disk / f"z.{kind}")
    (disk / "old").mkdir()
    os.rename(disk / f"b.{kind}", disk / "old" / f"b.{kind}")
    times = (disk / f"c.{kind}").stat()
    (disk / f"c.{kind}").unlink()
    changed = [(name, data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]) for name, data in files[8:]]
    pack(kind, [*changed, ("c.txt", b"no image")], disk / "old" / f"c.{kind}")
    os.utime(disk / "old" / f"c.{kind}", ns=(times.st_atime_ns, times.st_mtime_ns))
    capsys.readouterr()
    assert classify(disk, "--drop-gone", model=tiny_model, output=output) == 0
    assert "moved      10 rows went along with what moved" in capsys.readouterr().out
    assert report_of(output)["rates"]["images"] == 5
    after = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert len(before) == len(after) == 15
    for uri, row in before.items():
        name = os.path.relpath(uri, disk)
        now = "z" + name[1:] if name.startswith("a.") else f"old/{name}"
        moved = after[str(disk / now)]
        same = name[0] != "c" or not row["label"]  # what is no image has not changed
        assert (moved == row | {"uri": str(disk / now)}) == same, name
    assert classify(disk, model=tiny_model, output=output) == 0
    assert report_of(output)["rates"]["images"] == 0
