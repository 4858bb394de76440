"""Pictures that crash or hang their decoder, through the whole job as a person runs it."""

import os
import pathlib
import subprocess
import sys

from samples import make_photos, read_rows

POISON = str(pathlib.Path(__file__).parents[1] / "poison")


def test_poison_costs_its_own_rows_and_nothing_else(tmp_path, tiny_model):
    make_photos(tmp_path / "photos", 40)
    expected = {"00012.jpg": "decode_crash", "00031.jpg": "decode_timeout"}
    (tmp_path / "photos" / "00012.jpg").write_bytes(b"POISON:segv")
    (tmp_path / "photos" / "00031.jpg").write_bytes(b"POISON:hang")
    output = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "classify", str(tmp_path / "photos")]
        + ["--model", tiny_model, "--output", str(output)]
        + ["--decode-seconds", "2", "--unit-images", "10"],
        env={**os.environ, "PYTHONPATH": POISON},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "a decoder crashed" in ended.stderr and "a decoder hung" in ended.stderr
    assert "Traceback" not in ended.stderr
    rows = read_rows(output).to_pylist()
    assert len(rows) == 40
    found = {os.path.basename(r["uri"]): r["status"] for r in rows if r["status"] != "ok"}
    assert found == expected
    assert not (output / "_imagecensus" / "inflight").exists()
