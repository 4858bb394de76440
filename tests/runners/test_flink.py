"""The job on a real Flink: rows equal the in-process run's, also when a machine dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid

import fetch_engines
import psutil
import pyarrow.parquet as pq
import pytest
from samples import make_photos, read_rows

from imagecensus.jobs.cli import main

pytestmark = pytest.mark.flink
PHOTOS = 198  # and 2 that are none
HELD_AT = 33  # of the units that a worker begins (conftest.py): there a machine dies


def command(photos, model, output, *flags) -> list[str]:
    job = [
        sys.executable,
        "-m",
        "imagecensus.jobs.cli",
        "classify",
        str(photos),
        f"--model={model}",
    ]
    return [*job, f"--output={output}", "--unit-images=16", *flags]


def classify(photos, model, output, *flags) -> subprocess.CompletedProcess:
    token = uuid.uuid4().hex
    done = subprocess.run(
        command(photos, model, output, *flags), env={**os.environ, "TEST_RUN": token},
        cwd=fetch_engines.ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not _processes_of(token), "a job server is left running"
    return done


def _processes_of(token: str) -> list[psutil.Process]:
    """Those that inherited a variable of this value."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TEST_RUN") == token:
                found.append(process)
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "photos"
    make_photos(folder, PHOTOS)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def expected(photos, tiny_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("in-process")
    classify(photos, tiny_model, output)
    return read_rows(output)


LOCAL = [
    "--runner=FlinkRunner",
    "--flink_master=[local]",
    f"--flink_version={fetch_engines.FLINK_MINOR}",
    f"--flink_job_server_jar={fetch_engines.job_server_jar()}",
    "--parallelism=2",
]


def test_rows_on_flink_local(photos, tiny_model, expected, tmp_path):
    classify(photos, tiny_model, tmp_path, *LOCAL)
    assert read_rows(tmp_path).equals(expected)


def test_rows_on_a_cluster(cluster, photos, tiny_model, expected, tmp_path):
    classify(photos, tiny_model, tmp_path, *cluster.job_flags)
    assert read_rows(tmp_path).equals(expected)
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["runner"] == "FlinkRunner"
    assert report["totals"]["balanced"]
    assert report["engine"] == "openvino", "the workers have chosen"
    assert report["counters"]["images_ok"] == report["counters"]["images_in_openvino"] == PHOTOS
    part = next((tmp_path / "predictions").iterdir())
    footer = pq.read_schema(part).metadata[b"imagecensus"]
    assert json.loads(footer)["engine"] == "openvino"
    assert report["counters"]["images_failed"] == 2
    pools = [(cluster.state / f"pool-{n}.log").read_text() for n in (1, 2)]
    assert all("Starting worker" in log for log in pools), "one machine did all the work"


WAVES = ["--parallelism=4", "--execution_mode_for_batch=BATCH_FORCED", "--object_reuse"]


def test_flags_of_the_java_side_arrive(cluster, photos, tiny_model, expected, tmp_path):
    """More bundles than slots, which follow one another: a slow machine does fewer of them."""
    flags = [*cluster.job_flags[:-1], *WAVES]
    classify(photos, tiny_model, tmp_path, *flags)
    assert read_rows(tmp_path).equals(expected)


def test_doctor_knows_of_waves(cluster, tiny_model, capfd):
    """Its check of the slots passes; another one fails, so that no job has to be sent through."""
    flags = [*cluster.job_flags[:-1], *WAVES, "--environment_type=LOOPBACK"]
    assert main(["doctor", f"--model={tiny_model}", *flags]) == 1
    assert re.search(r"^ok .*2 slots, --parallelism=4: in waves$", capfd.readouterr().out, re.M)


def test_a_flag_that_nobody_knows_is_refused(photos, tiny_model, tmp_path):
    done = subprocess.run(
        command(photos, tiny_model, tmp_path, *LOCAL, "--no_such_flag=1"),
        cwd=fetch_engines.ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "unknown argument --no_such_flag: neither imagecensus nor Beam" in done.stderr


def test_doctor_asks_the_cluster(cluster, photos, tiny_model, tmp_path, capfd):
    """Its last check sends an element through: the workers of the pools tell their versions."""
    command = ["doctor", str(photos), f"--model={tiny_model}", f"--output={tmp_path}/out"]
    assert main([*command, *cluster.job_flags]) == 0
    said = capfd.readouterr().out
    assert f"Flink {fetch_engines.FLINK}, 2 TaskManagers, 2 slots" in said
    assert re.search(r"^ok +workers .*, as here$", said, re.MULTILINE)


@pytest.mark.parametrize(
    "flag, told, remedy",
    [
        ("--environment_type=LOOPBACK", "call back into this process", "EXTERNAL"),
        # Another spelling of the loopback address stands for another machine's.
        ("--flink_master=127.1:{port}", "the workers are elsewhere", "write to a store"),
        ("--flink_version=1.20", "runs Flink 1.19", "--flink_version=1.19"),
        ("--parallelism=3", "2 slots, --parallelism=3", "BATCH_FORCED"),
        ("--no_such_flag=1", "unknown argument --no_such_flag", "other arguments"),
        ("--flink_master=localhost:9", "no Flink answers", "docs/flink.md"),
    ],
)
def test_doctor_finds_what_would_stop_a_run_there(
    cluster, tiny_model, tmp_path, capfd, flag, told, remedy
):
    command = ["doctor", f"--model={tiny_model}", f"--output={tmp_path}/out", *cluster.job_flags]
    assert main([*command, flag.format(port=cluster.rest_port)]) == 1
    said = capfd.readouterr().out.splitlines()
    [at] = [at for at, line in enumerate(said) if line.startswith("fail")]
    assert told in said[at]
    assert remedy in said[at + 1]


def test_a_machine_dies(cluster, begun, held, photos, tiny_model, expected, tmp_path):
    """At 60 of 100 units: what is done is not done again, and the job ends by itself."""
    written = begun.with_name("written")
    for count in (begun, written):
        count.unlink(missing_ok=True)
    parts = tmp_path / "out" / "predictions"
    flags = ["--unit-images=2", *cluster.job_flags]
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(
            command(photos, tiny_model, tmp_path / "out", *flags),
            cwd=fetch_engines.ROOT, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while _lines(begun) < 2 * HELD_AT or len(list(parts.iterdir())) < 2 * HELD_AT - 8:
                assert job.poll() is None and time.monotonic() < deadline, "workers do not come on"
                time.sleep(0.02)
            done = len(list(parts.iterdir()))
            cluster.kill_host(1)
            held.touch()
            time.sleep(1)
            cluster.start_host(1)
            cluster.wait_for_task_managers(2)
            code = job.wait(150)
        finally:
            if job.poll() is None:
                job.send_signal(signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    print(f"killed at {done} of 100: {_lines(begun)} begun, {_lines(written)} written")
    assert _lines(begun) <= 105
    assert _lines(written) == 100, "a part was written twice"
    assert read_rows(tmp_path / "out").equals(expected)
    assert json.loads((tmp_path / "out" / "run_report.json").read_text())["totals"]["balanced"]


def _lines(file) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0
