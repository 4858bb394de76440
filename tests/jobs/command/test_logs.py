"""What a user and a machine get to read while a job runs."""

import json
import logging
import subprocess
import sys
import time

import duckdb
import pytest
from samples import make_photos

from imagecensus.jobs import cli
from imagecensus.jobs.command import logs
from imagecensus.transforms import activity


@pytest.fixture
def record():
    def make(message, **fields):
        one = logging.LogRecord("imagecensus", logging.WARNING, "x.py", 1, message, (), None)
        one.fields = fields
        return one

    return make


def test_a_json_line_has_the_records_fields_and_no_secret(record):
    line = logs._Json().format(record("slow read: http://h/a?sig=s3cr3t", stage="read", seconds=2))
    said = json.loads(line)
    assert said["level"] == "warning" and said["stage"] == "read" and said["seconds"] == 2
    assert "s3cr3t" not in line


def test_a_line_for_people_has_no_secret(record):
    line = logs._Line("%(message)s").format(record("token=s3cr3t"))
    assert "s3cr3t" not in line


def test_a_log_for_machines_warns_of_nothing_in_a_run_that_is_well(tmp_path, tiny_model):
    make_photos(tmp_path / "photos", 2)
    words = ["--log-json", "classify", "photos", "--output", "out", "--model", tiny_model]
    command = [sys.executable, "-m", "imagecensus.jobs.cli", *words, "--no-report"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=60)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert lines[0]["message"] == "classifying 1 unit"
    assert {line["level"] for line in lines} == {"info"}


def test_a_slow_image_is_logged_once_with_its_stage(monkeypatch, caplog):
    monkeypatch.setattr(activity, "SLOW_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "imagecensus")
    with activity.doing("read", "/fast.jpg"):
        pass
    activity.take_slow()
    for stage in ("read", "decode"):
        with activity.doing(stage, "/slow.jpg"):
            time.sleep(0.02)
    [told] = caplog.records
    assert told.levelno == logging.WARNING  # a user at a terminal sees it, too
    assert told.fields["uri"] == "/slow.jpg" and told.fields["stage"] == "read"
    assert activity.take_slow() == [told.fields]
    assert activity.take_slow() == []


def test_many_slow_images_are_counted_and_reported(monkeypatch, capfd, tmp_path, tiny_model):
    monkeypatch.setattr(activity, "SLOW_SECONDS", 0)
    monkeypatch.setattr(activity, "_slow_count", 0)
    photos = make_photos(tmp_path / "photos", 30)
    argv = ["classify", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert cli.main([*argv, "--model", tiny_model, "--no-report"]) == 0
    said = capfd.readouterr()
    assert "30 images took over a second" in said.out
    report = json.loads((tmp_path / "out" / "run_report.json").read_text())
    assert {slow["uri"] for slow in report["slow_images"]} == set(photos)
    assert report["counters"]["images_slow"] == 30


def test_a_stuck_run_says_what_it_waits_for(monkeypatch, caplog):
    """The watching thread's own loop, with its clock sped up."""
    monkeypatch.setattr(activity, "STUCK_SECONDS", 2)
    looks = iter(range(6))

    def sleep(_):
        if next(looks, None) is None:
            raise SystemExit

    monkeypatch.setattr(activity.time, "sleep", sleep)
    caplog.set_level(logging.WARNING, "imagecensus")
    with activity.doing("read", "gs://b/stuck.jpg"), pytest.raises(SystemExit):
        activity._look()
    assert "waiting for 2 s: read of gs://b/stuck.jpg" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Traceback …\nMemoryError: malloc of size 64 failed"),
        duckdb.OutOfMemoryException("Failed to allocate block of 2097152 bytes (bad allocation)"),
    ],
)
def test_out_of_memory_is_a_sentence(monkeypatch, capsys, error):
    import imagecensus.jobs.report

    def explode(_):
        raise error

    monkeypatch.setattr(imagecensus.jobs.report, "main", explode)
    assert cli.main(["report", "x"]) == 1
    said = capsys.readouterr().err
    assert "out of memory" in said and "Traceback" not in said
