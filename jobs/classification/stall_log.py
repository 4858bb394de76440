"""What a launcher says while it waits for workers elsewhere: how far they are, or if at all."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from imagecensus.jobs.classification.remote_job import RemoteJob, waiting_for
from imagecensus.jobs.command.progress import LOG_SECONDS
from imagecensus.jobs.command.progress import LOGGER as PROGRESS
from imagecensus.jobs.options.classify import IN_PROCESS
from imagecensus.model_export.common.quantities import counted
from imagecensus.transforms.activity import LOGGER
from imagecensus.transforms.dataset import parts
from imagecensus.transforms.records import Unit

if TYPE_CHECKING:  # Beam is imported where it is used
    from apache_beam.runners.runner import PipelineResult


class Waiting:
    """While the block lasts: logs each half minute how many units are finished, or if none is.

    A run in this process reports more by itself: `activity` knows what each thread is busy with.
    """

    def __init__(
        self, runner: str, units: list[Unit], folder: str, *, job: RemoteJob | None = None,
        period: float = LOG_SECONDS,
    ) -> None:  # fmt: skip
        """Args:
        runner: its name; the one in this process needs no telling.
        units: what is to be done.
        folder: of the parts. A part of an earlier revision is not counted.
        job: what is waited for, where it can be asked what it lacks.
        period: seconds between two looks.
        """
        self._runner, self._folder, self._period, self._job = runner, folder, period, job
        self._names = {(unit.name, unit.revision) for unit in units}
        self._result: PipelineResult | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="waiting", daemon=True)

    def on(self, result: PipelineResult) -> None:
        """The job was submitted: `result.state` says what becomes of it."""
        self._result = result

    def __enter__(self) -> Waiting:
        if self._runner != IN_PROCESS:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _look(self) -> None:
        done, idle = 0, 0.0
        while not self._over.wait(self._period):
            before, done = done, self._finished(done)
            idle = idle + self._period if done == before else 0.0
            if idle:
                self._log_waiting(done, idle)
            else:
                fields = {"stage": "workers", "units_finished": done, "units": len(self._names)}
                text = f"workers: {done:,} of {counted(len(self._names), 'unit')} finished"
                PROGRESS.info("%s", text, extra={"fields": fields})

    def _log_waiting(self, done: int, idle: float) -> None:
        state, lacks = self._state(), waiting_for(self._job)
        fields = {"stage": "workers", "state": state, "seconds": idle}
        fields |= {"waiting_for": lacks} if lacks else {}
        fields |= {"units_finished": done, "units": len(self._names)}
        LOGGER.warning(
            "waiting for %d s for workers to finish a unit: %d of %d are finished, %s says %s%s",
            idle,
            done,
            len(self._names),
            self._runner,
            state,
            f"; {lacks}" if lacks else "",
            extra={"fields": fields},
        )

    def _finished(self, known: int) -> int:
        try:
            there = parts.list_part_files(self._folder)
            return len(self._names & {(part.unit, part.revision) for part in there})
        except Exception:  # a bucket that does not answer now: the run itself will say so
            return known

    def _state(self) -> str:
        if self._result is None:
            return "nothing yet (the job is being submitted)"
        try:
            return str(self._result.state)
        except Exception as error:
            return f"nothing ({type(error).__name__})"
