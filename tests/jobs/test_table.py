"""The table as CSV and JSON Lines: every row, every column, whatever its text."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from tables import HOSTILE, row, write_table

from imagecensus.jobs.cli import main


@pytest.fixture
def table(tmp_path):
    rows = [row(f"/{text}", [(text, 0.5)], shelf=text) for text in HOSTILE]
    rows.append(row("/gone", status="not_found", error="gone", shelf=None))
    for some in rows:
        some["embedding"] = [1.0, 2.0]
    return write_table(tmp_path / "out", rows, 3, [pa.field("shelf", pa.string())], 2)


def test_csv_has_each_row_and_column(table, tmp_path):
    assert main(["table", table, "--to", str(tmp_path / "t.csv")]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text("utf-8"), newline="")))
    assert sorted(r["uri"] for r in rows) == [r["uri"] for r in rows] and len(rows) == 11
    assert "embedding" not in rows[0]
    for found in rows:
        if found["status"] == "ok":
            assert found["label"] == found["shelf"] == found["uri"][1:]
            assert json.loads(found["top_k"])[0]["label"] == found["label"]
    gone = next(r for r in rows if r["uri"] == "/gone")
    assert gone["label"] == gone["score"] == gone["top_k"] == "" and gone["error"] == "gone"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has such a device")
def test_a_full_disk_is_not_blamed_on_the_table(table):
    command = [sys.executable, "-m", "imagecensus.jobs.cli", "table", table]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60, text=True
        )
    assert ended.returncode == 1
    assert "No space left on device; free some" in ended.stderr and "delete" not in ended.stderr


def test_json_lines_keep_types(table, tmp_path):
    words = ["table", table, "--format", "jsonl", "--embeddings", "--to", str(tmp_path / "t.jsonl")]
    assert main(words) == 0
    rows = [
        json.loads(line) for line in (tmp_path / "t.jsonl").read_text("utf-8").split("\n") if line
    ]
    assert len(rows) == 11
    ok = next(r for r in rows if r["status"] == "ok")
    assert ok["score"] == 0.5 and ok["embedding"] == [1.0, 2.0]
    assert ok["top_k"][0]["score"] == 0.5
    gone = next(r for r in rows if r["uri"] == "/gone")
    assert gone["label"] is None and gone["top_k"] is None


def test_standard_output_and_a_reader_that_stops(table):
    words = [sys.executable, "-m", "imagecensus.jobs.cli", "table", table, "--format=jsonl"]
    whole = subprocess.run(words, capture_output=True)
    assert whole.returncode == 0 and whole.stdout.count(b"\n") == 11
    shell = " ".join(f"'{word}'" for word in words) + " | head -n 1"
    first = subprocess.run(["sh", "-c", shell], capture_output=True)
    assert first.stdout == whole.stdout.splitlines(keepends=True)[0] and not first.stderr


def test_a_program_that_calls_the_command_survives_a_broken_pipe(table, capfd):
    before = signal.getsignal(signal.SIGPIPE)
    assert main(["table", table, "--format=jsonl"]) == 0
    assert signal.getsignal(signal.SIGPIPE) is before


def test_a_folder_that_is_not_there(table, capsys):
    assert main(["table", table, "--to", "/no/such/t.csv"]) == 2
    assert "make it first" in capsys.readouterr().err
