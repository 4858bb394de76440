"""Images that crash or hang their decoder, through the whole job as a user runs it."""

import os
import pathlib
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from samples import make_photos, read_rows

POISON = str(pathlib.Path(__file__).parents[1] / "poison")


def _classify(images, model, output, *flags):
    return subprocess.run(
        [sys.executable, "-m", "imagecensus.jobs.cli", "classify", str(images)]
        + ["--model", model, "--output", str(output)]
        + ["--decode-seconds", "8", "--unit-images", "10", *flags],
        env={**os.environ, "PYTHONPATH": POISON},
        capture_output=True,
        text=True,
    )


def test_poison_costs_its_own_rows_and_nothing_else(tmp_path, tiny_model):
    make_photos(tmp_path / "photos", 40)
    poison = {
        "00007.jpg": ("eat", "too_large"), "00012.jpg": ("segv", "decode_crash"),
        "00031.jpg": ("hang", "decode_timeout"), "00032.jpg": ("segv", "decode_crash"),
    }  # fmt: skip
    for name, (how, _) in poison.items():
        (tmp_path / "photos" / name).write_bytes(b"\xff\xd8\xffPOISON:" + how.encode())
    output = tmp_path / "out"
    ended = _classify(tmp_path / "photos", tiny_model, output, "--decode-memory", "1G")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    rows = read_rows(output).to_pylist()
    assert len(rows) == 40
    found = {os.path.basename(r["uri"]): r["status"] for r in rows if r["status"] != "ok"}
    assert found == {name: status for name, (_, status) in poison.items()}


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
