"""A job on a real Flink that outlives its launcher: left, attached to, cancelled; never two."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time

import fetch_engines
import pytest
from samples import make_photos, read_rows

from imagecensus.jobs.cli import main

pytestmark = pytest.mark.flink


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """100 images, a unit each: the job waits at a third of them where a test holds its workers."""
    folder = tmp_path_factory.mktemp("archive") / "photos"
    make_photos(folder, 100)
    return folder


@pytest.fixture
def start(cluster, photos, tiny_model):
    """Starts launchers, and ends what is left of them."""
    with contextlib.ExitStack() as left:

        def start(output, *flags) -> subprocess.Popen:
            words = ["classify", str(photos), f"--model={tiny_model}", f"--output={output}"]
            words += ["--unit-images=1", "--no-report", *flags]
            process = subprocess.Popen(
                [sys.executable, "-m", "imagecensus", *words, *cluster.job_flags],
                cwd=fetch_engines.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            left.callback(process.kill)
            return process

        yield start


def end_of(process) -> tuple[int, str]:
    said, _ = process.communicate(timeout=200)
    return process.returncode, said


def jobs(cluster, state: str) -> list[str]:
    return [job["jid"] for job in cluster.ask("jobs/overview")["jobs"] if job["state"] == state]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def parts_in(output) -> int:
    folder = output / "predictions"
    return len(list(folder.glob("part-*"))) if folder.is_dir() else 0


def test_left_attached_to_and_ended(cluster, held, start, tmp_path):
    """--detach, then the same command; Ctrl-C leaves a job that the next command cancels."""
    output = tmp_path / "out"
    code, said = end_of(start(output, "--detach"))
    assert code == 0, said
    assert "running    FlinkRunner job imagecensus-" in said
    running = jobs(cluster, "RUNNING")
    assert len(running) == 1
    record = json.loads((output / "_imagecensus" / "job.json").read_text())
    assert record["place"] == {"url": f"http://localhost:{cluster.rest_port}"}
    assert "Units/Cut" in str(cluster.ask(f"jobs/{running[0]}"))
    code, said = end_of(start(output, "--detach"))  # no second job
    assert code == 0 and jobs(cluster, "RUNNING") == running
    attached = start(output)
    assert any("attached" in line for line in attached.stdout)
    held.touch()
    code, said = end_of(attached)
    assert code == 0 and " + 0 failed  (balanced)" in said, said
    assert not (output / "_imagecensus" / "job.json").exists()
    assert len(set(read_rows(output).column("uri").to_pylist())) == 100


def test_ctrl_c_leaves_the_job_and_cancel_ends_it(cluster, held, start, photos, tmp_path, capfd):
    output = tmp_path / "out"
    launcher = start(output)
    wait_until(lambda: parts_in(output) > 3 or launcher.poll() is not None, 120)
    launcher.send_signal(signal.SIGINT)
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 130, said
    assert "goes on; run the same command again to attach to it" in said and "defect" not in said
    assert jobs(cluster, "RUNNING")
    cancel = ["classify", str(photos), f"--output={output}", "--cancel"]  # from anywhere
    assert main(cancel) == 0
    assert "cancelled  FlinkRunner job" in capfd.readouterr().out
    assert not jobs(cluster, "RUNNING")
    done = parts_in(output)
    assert 3 < done < 100
    held.touch()
    assert main(cancel) == 0
    assert "no job runs for it" in capfd.readouterr().out
    code, said = end_of(start(output))
    assert code == 0, said
    assert len(set(read_rows(output).column("uri").to_pylist())) == parts_in(output) == 100
