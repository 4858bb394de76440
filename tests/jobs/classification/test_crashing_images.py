"""Images that crash or hang their decoder, through the whole job as a person runs it."""

import os
import pathlib
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from samples import make_photos, read_rows

POISON = str(pathlib.Path(__file__).parents[2] / "poison")


def _classify(images, model, output, *flags):
    return subprocess.run(
        [sys.executable, "-m", "imagecensus.jobs.cli", "classify", str(images)]
        + ["--model", model, "--output", str(output)]
        + ["--decode-seconds", "2", "--unit-images", "10", *flags],
        env={**os.environ, "PYTHONPATH": POISON},
        capture_output=True,
        text=True,
    )


def test_poison_costs_its_own_rows_and_nothing_else(tmp_path, tiny_model):
    make_photos(tmp_path / "photos", 40)
    expected = {"00012.jpg": "decode_crash", "00031.jpg": "decode_timeout"}
    (tmp_path / "photos" / "00012.jpg").write_bytes(b"\xff\xd8\xffPOISON:segv")
    (tmp_path / "photos" / "00031.jpg").write_bytes(b"\xff\xd8\xffPOISON:hang")
    output = tmp_path / "out"
    ended = _classify(tmp_path / "photos", tiny_model, output)
    assert ended.returncode == 0, ended.stderr
    assert "a decoder crashed" in ended.stderr and "a decoder hung" in ended.stderr
    assert "Traceback" not in ended.stderr
    rows = read_rows(output).to_pylist()
    assert len(rows) == 40
    found = {os.path.basename(r["uri"]): r["status"] for r in rows if r["status"] != "ok"}
    assert found == expected
    assert not (output / "_imagecensus" / "inflight").exists()


def test_a_image_that_eats_all_memory_costs_its_own_row(tmp_path, tiny_model):
    """Whom the kernel killed is not run again unasked; the rerun isolates the image."""
    make_photos(tmp_path / "photos", 20)
    (tmp_path / "photos" / "00007.jpg").write_bytes(b"\xff\xd8\xffPOISON:eat")
    run = (tmp_path / "photos", tiny_model, tmp_path / "out", "--decode-memory", "1G")
    killed = _classify(*run)
    assert killed.returncode == 128 + signal.SIGKILL
    assert "out of memory?" in killed.stderr and "to resume" in killed.stderr
    assert _classify(*run).returncode == 0
    rows = read_rows(tmp_path / "out").to_pylist()
    assert len(rows) == 20
    failed = [(row["uri"][-9:], row["status"]) for row in rows if row["status"] != "ok"]
    assert failed == [("00007.jpg", "too_large")]


def test_archives_whose_reader_crashes_cost_their_own_rows(tmp_path, tiny_model):
    """One crashes Arrow when it is looked into, one in the middle of reading, one not at all."""
    photos = [pathlib.Path(path).read_bytes() for path in make_photos(tmp_path / "made", 40)]
    folder = tmp_path / "photos"
    folder.mkdir()
    pq.write_table(pa.table({"image": photos}), folder / "good.parquet")
    crashing = [*photos[:20], b"POISON:read", *photos[21:]]
    pq.write_table(pa.table({"image": crashing}), folder / "row.parquet")
    pq.write_table(pa.table({"image": photos, "POISON": [1] * 40}), folder / "whole.parquet")
    (folder / "plain.jpg").write_bytes(photos[0])
    output = tmp_path / "out"
    for _ in range(2):  # the second finds nothing to do, and lists the archives again
        ended = _classify(folder, tiny_model, output, "--decode-seconds", "60")
        assert ended.returncode == 1 and "could not be listed" in ended.stderr, ended.stderr
        assert "Traceback" not in ended.stderr
        rows = {os.path.basename(r["uri"]): r for r in read_rows(output).to_pylist()}
        assert len(rows) == 40 + 40 + 1 + 1
        failed = {name: row for name, row in rows.items() if row["status"] != "ok"}
        # Rows are read eight at a time, and not past the crash.
        assert failed.keys() == {"whole.parquet", *(f"row.parquet#{n}" for n in range(16, 40))}
        assert {row["status"] for row in failed.values()} == {"read_error"}
        assert "SIGSEGV" in failed["row.parquet#20"]["error"]
    assert not (output / "_imagecensus" / "inflight").exists()
