"""A launcher says what it waits for."""

import logging
import threading

import pytest

from imagecensus.jobs.classification.stall_log import Waiting
from imagecensus.jobs.command.logs import PROGRESS
from imagecensus.transforms.records import Unit

UNITS = [Unit(name=name, plan="plan", row_group=0, rows=5) for name in "abc"] + [
    Unit(name="d", plan="plan", row_group=0, rows=5, revision=1)
]


class _Result:
    state = "RUNNING"


class _Told(logging.Handler):
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
    handler, logger = _Told(), logging.getLogger("imagecensus")
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
