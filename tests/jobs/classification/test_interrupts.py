"""What Ctrl-C does to a job whose workers are in other processes."""

import signal

import pytest

from imagecensus.jobs.classification.interrupts import cancelled_on_interrupt


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
