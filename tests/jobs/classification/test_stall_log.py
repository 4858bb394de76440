"""A launcher says what it waits for."""

import http.server
import json
import logging
import threading
import time

import pytest
from web_server import serving

from imagecensus.jobs.classification.remote_job import RemoteJob
from imagecensus.jobs.classification.stall_log import Waiting
from imagecensus.jobs.command.logs import PROGRESS
from imagecensus.transforms.records import Unit

UNITS = [Unit(name=name, plan="plan", row_group=0, rows=5) for name in "abc"] + [
    Unit(name="d", plan="plan", row_group=0, rows=5, revision=1)
]


class _Result:
    state = "RUNNING"


class _Logged(logging.Handler):
    """Keeps records, and says when there is one."""

    def __init__(self):
        super().__init__()
        self.records, self.some = [], threading.Event()

    def emit(self, record):
        if record.name == PROGRESS:
            return
        self.records.append(record)
        self.some.set()


@pytest.fixture
def told():
    handler, logger = _Logged(), logging.getLogger("imagecensus")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_it_tells_the_jobs_state_and_what_is_finished(tmp_path, told):
    for name in ("a", "d"):  # d is revised: its old part says nothing
        (tmp_path / f"part-{name}.parquet").touch()
    waiting = Waiting("FlinkRunner", UNITS, str(tmp_path), period=0.01)
    with waiting:
        waiting.on(_Result())
        assert told.some.wait(30)
    text = told.records[-1].getMessage()
    assert "1 of 4 are finished, FlinkRunner says RUNNING" in text
    assert told.records[-1].fields["units_finished"] == 1


def test_before_the_job_is_submitted_and_without_a_table_folder(tmp_path, told):
    with Waiting("PrismRunner", UNITS, str(tmp_path / "absent"), period=0.01):
        assert told.some.wait(30)
    assert "0 of 4 are finished, PrismRunner says nothing yet" in told.records[0].getMessage()


def test_a_run_in_this_process_needs_no_telling(tmp_path, told):
    with Waiting("in-process", UNITS, str(tmp_path), period=0) as waiting:
        assert not waiting._thread.is_alive()
    assert not told.records


@pytest.fixture
def flink():
    """A Flink's REST endpoint with one job: (its url, what it answers)."""
    now = time.time()
    said = {
        "/jobs/overview": {
            "jobs": [
                {"jid": "1", "name": "census", "state": "RUNNING", "start-time": now * 1000},
                {"jid": "2", "name": "others", "state": "RUNNING", "start-time": now * 1000},
            ]
        },
    }

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in said else 404)
            self.end_headers()
            self.wfile.write(json.dumps(said.get(self.path, {})).encode())

    with serving(Answers) as server:
        yield server.url, said


TAKEN = (
    "it waits for a slot: the cluster has 2, and none is free; start TaskManagers, end other jobs"
)


@pytest.mark.parametrize(
    ("tasks", "slots", "free", "text"),
    [
        ({"SCHEDULED": 2}, 2, 0, TAKEN),
        ({"SCHEDULED": 3, "CREATED": 3}, 2, 1, "it waits for more slots than the 1 of 2 that are"),
        ({"SCHEDULED": 2}, 0, 0, "no TaskManager has registered; start one"),
        ({"RUNNING": 2, "SCHEDULED": 2}, 2, 0, ""),  # waves follow one another
        ({"CREATED": 2, "FINISHED": 2}, 2, 0, ""),
    ],
)
def test_a_job_that_waits_for_slots_says_so(tmp_path, told, flink, tasks, slots, free, text):
    url, said = flink
    said["/overview"] = {"slots-total": slots, "slots-available": free}
    said["/jobs/1"] = {"vertices": [{"tasks": tasks}, {"tasks": {"CREATED": 1}}]}
    job = RemoteJob(
        runner="FlinkRunner", name="census", place={"url": url}, run_id="r", began=time.time()
    )
    with Waiting("FlinkRunner", UNITS, str(tmp_path), job=job, period=0.01) as waiting:
        waiting.on(_Result())
        assert told.some.wait(30)
    assert text in told.records[0].getMessage()
    assert told.records[0].fields.get("waiting_for", "") in told.records[0].getMessage()
    assert bool(told.records[0].fields.get("waiting_for")) == bool(text)


def test_a_cluster_that_does_not_answer_changes_nothing(tmp_path, told):
    place = {"url": "http://127.0.0.1:1"}
    job = RemoteJob(runner="FlinkRunner", name="census", place=place, run_id="r", began=0)
    with Waiting("FlinkRunner", UNITS, str(tmp_path), job=job, period=0.01) as waiting:
        waiting.on(_Result())
        assert told.some.wait(30)
    assert told.records[0].getMessage().endswith("FlinkRunner says RUNNING")
