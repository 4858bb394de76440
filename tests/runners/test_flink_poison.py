"""Images that crash, hang or eat their decoder, on pools of workers: none dies of them."""

from __future__ import annotations

import json
import subprocess

import fetch_engines
import pytest
from samples import make_photos, read_rows
from test_flink import command

pytestmark = pytest.mark.flink


def test_poison_costs_its_own_rows_in_a_worker_pool(cluster, tmp_path, tiny_model):
    make_photos(tmp_path / "photos", 60)
    poison = {"00007.jpg": b"eat", "00031.jpg": b"segv", "00052.jpg": b"hang"}
    for name, how in poison.items():
        (tmp_path / "photos" / name).write_bytes(b"\xff\xd8\xffPOISON:" + how)
    output = tmp_path / "out"
    run = command(tmp_path / "photos", tiny_model, output, *cluster.job_flags)
    run += ["--decode-seconds=5", "--decode-memory=1G"]
    done = subprocess.run(run, cwd=fetch_engines.ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    counters = json.loads((output / "run_report.json").read_text())["counters"]
    assert counters["units"] == 4, "no worker died of it, and no unit was given to another one"
    rows = read_rows(output).to_pylist()
    assert len(rows) == 60
    failed = {row["uri"][-9:]: row["status"] for row in rows if row["status"] != "ok"}
    assert failed == {
        "00007.jpg": "too_large", "00031.jpg": "decode_crash", "00052.jpg": "decode_timeout"
    }  # fmt: skip
