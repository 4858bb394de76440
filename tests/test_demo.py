"""The demo, made small: every step runs and the totals balance."""

import json
import subprocess
import sys

import demo
from samples import read_rows


def test_the_demo_runs_whole(tmp_path):
    """In a process of its own, as `make demo` starts it: what is loaded here would hide a fault."""
    top = tmp_path / "demo"
    words = ["--folder", str(top), "--train", "10", "--classify", "12", "--epochs", "1"]
    command = [sys.executable, demo.__file__, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert "held-out images: " in done.stdout, done.stderr
    accuracy = float(done.stdout.split("held-out images: ")[1].split()[0])
    assert done.returncode == (0 if accuracy >= demo.TARGET_ACCURACY else 1)
    rows = read_rows(top / "output").to_pylist()
    assert len(rows) == 5 * 12 + 5
    formats = {row["format"] for row in rows if row["status"] == "ok"}
    assert formats == {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"}
    assert {row["status"] for row in rows} == {
        "ok", "empty_file", "not_an_image", "truncated", "unsupported_format", "not_found",
    }  # fmt: skip
    assert json.loads((top / "output" / "run_report.json").read_text())["totals"]["balanced"]
    assert (top / "output" / "report.html").is_file()
