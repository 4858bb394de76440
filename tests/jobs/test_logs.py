"""What a person and a machine get to read while a job runs."""

import json
import logging
import time

import pytest

from jobs import cli, logs
from transforms import activity


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


def test_a_slow_picture_is_logged_once_with_its_stage(monkeypatch, caplog):
    monkeypatch.setattr(activity, "SLOW_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "imagecensus")
    with activity.doing("read", "/fast.jpg"):
        pass
    with activity.doing("decode", "/slow.jpg"):
        time.sleep(0.02)
    [told] = caplog.records
    assert told.fields["uri"] == "/slow.jpg" and told.fields["stage"] == "decode"


def test_a_stuck_run_says_what_it_waits_for(monkeypatch, caplog):
    """The watching thread's own loop, with its clock sped up."""
    monkeypatch.setattr(activity, "STUCK_SECONDS", 2)
    looks = iter(range(6))

    def sleep(_):
        if next(looks, None) is None:
            raise SystemExit

    monkeypatch.setattr(activity.time, "sleep", sleep)
    monkeypatch.setattr(activity, "_deadline", 1000)
    caplog.set_level(logging.WARNING, "imagecensus")
    with activity.doing("read", "gs://b/stuck.jpg"), pytest.raises(SystemExit):
        activity._look()
    assert "waiting for 2 s: read of gs://b/stuck.jpg" in caplog.text


def test_out_of_memory_is_a_sentence(monkeypatch, capsys):
    import jobs.report

    def explode(_):
        raise RuntimeError("Traceback …\nMemoryError: malloc of size 64 failed")

    monkeypatch.setattr(jobs.report, "main", explode)
    assert cli.main(["report", "x"]) == 1
    said = capsys.readouterr().err
    assert "out of memory" in said and "Traceback" not in said
