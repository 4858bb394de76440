"""A job on a real Flink that outlives its launcher: left, attached to, cancelled; never two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import fetch_engines
import pytest
from samples import make_photos, read_rows

from imagecensus.jobs.cli import main

pytestmark = pytest.mark.flink


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """2,300 images, a unit each, so that a job takes some time: its graph has the plan file."""
    folder = tmp_path_factory.mktemp("archive") / "photos"
    for copy in range(1, 24):
        (folder / str(copy)).mkdir(parents=True)
    for path in make_photos(folder, 100):
        for copy in range(1, 24):
            os.link(path, folder / str(copy) / os.path.basename(path))
    return folder


def start(cluster, photos, model, output, *flags) -> subprocess.Popen:
    words = ["classify", str(photos), f"--model={model}", f"--output={output}"]
    words += ["--unit-images=1", "--no-report", *flags]
    return subprocess.Popen(
        [sys.executable, "-m", "imagecensus.jobs.cli", *words, *cluster.job_flags],
        cwd=fetch_engines.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(*arguments) -> tuple[int, str]:
    process = start(*arguments)
    said, _ = process.communicate(timeout=200)
    return process.returncode, said


def states(cluster) -> list[str]:
    with urllib.request.urlopen(f"http://localhost:{cluster.rest_port}/jobs/overview") as answer:
        return [job["state"] for job in json.load(answer)["jobs"]]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def parts_in(output) -> int:
    folder = output / "predictions"
    return len(list(folder.glob("part-*"))) if folder.is_dir() else 0


def test_left_attached_to_and_ended(cluster, photos, tiny_model, tmp_path):
    """--detach, then the same command; Ctrl-C leaves a job that the next command cancels."""
    output = tmp_path / "out"
    code, said = run(cluster, photos, tiny_model, output, "--detach")
    assert code == 0, said
    assert "running    FlinkRunner job imagecensus-" in said
    assert states(cluster).count("RUNNING") == 1
    record = json.loads((output / "_imagecensus" / "job.json").read_text())
    assert record["place"] == {"url": f"http://localhost:{cluster.rest_port}"}
    code, said = run(cluster, photos, tiny_model, output, "--detach")  # no second job
    assert code == 0 and states(cluster).count("RUNNING") <= 1
    code, said = run(cluster, photos, tiny_model, output)
    assert code == 0 and "attached" in said, said
    assert " + 0 failed  (balanced)" in said, said
    assert not (output / "_imagecensus" / "job.json").exists()
    assert len(set(read_rows(output).column("uri").to_pylist())) == read_rows(output).num_rows


def test_ctrl_c_leaves_the_job_and_cancel_ends_it(cluster, photos, tiny_model, tmp_path, capfd):
    output = tmp_path / "out"
    launcher = start(cluster, photos, tiny_model, output)
    wait_until(lambda: parts_in(output) > 3 or launcher.poll() is not None, 120)
    launcher.send_signal(signal.SIGINT)
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 130, said
    assert "goes on; run the same command again to attach to it" in said and "defect" not in said
    assert "RUNNING" in states(cluster)
    cancel = ["classify", str(photos), f"--output={output}", "--cancel"]  # from anywhere
    assert main(cancel) == 0
    assert "cancelled  FlinkRunner job" in capfd.readouterr().out
    assert "RUNNING" not in states(cluster)
    done = parts_in(output)
    assert main(cancel) == 0
    assert "no job runs for it" in capfd.readouterr().out
    code, said = run(cluster, photos, tiny_model, output)
    assert code == 0 and done > 3, said
    table = read_rows(output)
    assert len(set(table.column("uri").to_pylist())) == table.num_rows
