"""What Ctrl-C does to a job whose workers are in other processes."""

import signal
import time

import pytest

from imagecensus.jobs.classification import remote_job
from imagecensus.jobs.classification.interrupts import cancelled_on_interrupt
from imagecensus.model_export.common.errors import UserError


class _Job:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_job_is_cancelled_and_that_is_said(number, capsys):
    job, before = _Job(), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), cancelled_on_interrupt("SparkRunner", [job]):
        signal.raise_signal(number)
    assert job.cancelled and "SparkRunner was cancelled" in capsys.readouterr().err
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    "error, said", [(TimeoutError(), "TimeoutError"), (OSError("no route\nat all"), "no route;")]
)
def test_a_job_that_cannot_be_cancelled_is_a_sentence(monkeypatch, error, said):
    def ask(url, method="GET"):
        raise error

    monkeypatch.setattr(remote_job, "_ask", ask)
    job = remote_job.RemoteJob(
        runner="FlinkRunner", name="n", run_id="r", began=time.time(), place={"url": "http://f"}
    )
    with pytest.raises(UserError, match=f"could not be cancelled: {said}"):
        remote_job.cancel_job(job)
