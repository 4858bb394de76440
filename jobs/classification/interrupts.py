"""What Ctrl-C does: a run in this process ends with the unit in work, a job elsewhere is left."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from imagecensus.jobs.classification.remote_job import (
    OVER,
    RUNNING,
    UNKNOWN,
    LeftRunningError,
    RemoteJob,
    cancel_job,
    forget_job,
    read_job,
    state_of,
    wait_for_end,
    wait_for_start,
    write_job,
)
from imagecensus.jobs.classification.stall_log import Waiting
from imagecensus.jobs.options.classify import DATAFLOW
from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.dataset import parts, work_plan

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineResult

    from imagecensus.transforms.dataset.layout import Layout


@contextlib.contextmanager
def graceful_interrupt(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C lets the unit in work finish and be committed; a second one ends at once."""

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print(
            "\nimagecensus: finishing the unit in work; Ctrl-C again to stop at once",
            file=sys.stderr,
        )

    with _on_signals(on_signal):
        yield


@contextlib.contextmanager
def _on_signals(handler: Callable[..., None]) -> Iterator[None]:
    try:
        before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the program that called us handles signals
        before = {}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _raise_on_signals(error: type[BaseException]) -> contextlib.AbstractContextManager[None]:
    """Ctrl-C within the block raises the error there."""

    def on_signal(*_: object) -> None:
        raise error

    return _on_signals(on_signal)


class _LeaveError(Exception):
    """The user wants this command to end."""


@contextlib.contextmanager
def _left_on_interrupt(job: RemoteJob, layout: Layout) -> Iterator[None]:
    """Ctrl-C within the block: the job is cancelled where the user says so, else it goes on.

    Raises LeftRunningError.
    """
    try:
        with _raise_on_signals(_LeaveError):
            yield
    except _LeaveError:
        wait_for_start(job)
        if not _asked(f"\n{job} is running. Cancel it? [y/N] "):
            raise LeftRunningError(
                f"{job} goes on; run the same command again to attach to it, or with --cancel to"
                " end it"
            ) from None
        cancel_job(job)
        wait_for_end(job, layout)
        forget_job(layout)
        raise LeftRunningError(
            f"{job} was cancelled; run the same command again to resume"
        ) from None


def _asked(question: str) -> bool:
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextlib.contextmanager
def cancelled_on_interrupt(runner: str, jobs: list[PipelineResult]) -> Iterator[None]:
    """Ctrl-C within the block cancels the jobs, whose workers are in other processes."""
    try:
        with _raise_on_signals(KeyboardInterrupt):
            yield
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel()
            print(f"\nimagecensus: the job on {runner} was cancelled", file=sys.stderr)
        raise


def submit(pipeline: beam.Pipeline, job: RemoteJob | None, layout: Layout) -> PipelineResult:
    """Submits the pipeline; a job that outlives this launcher is written down before.

    Raises UserError: a job of this name runs already.
    """
    if job is None:
        return pipeline.run()
    write_job(layout, job)
    try:
        return pipeline.run()
    except Exception as error:
        if type(error).__name__ == "DataflowJobAlreadyExistsError":
            raise UserError(
                f"{job} runs already; run the same command again to attach to it"
            ) from None
        forget_job(layout)
        raise


def follow(job: RemoteJob, result: Any, layout: Layout, *, detach: bool) -> bool:
    """Waits for a job that was submitted; returns whether it was left running, as asked."""
    if job.runner == DATAFLOW:
        job = dataclasses.replace(job, id=result.job_id())
    write_job(layout, job)
    if detach:
        wait_for_start(job)
        return True
    with _cancelled_elsewhere(job, result, layout), _left_on_interrupt(job, layout):
        result.wait_until_finish()
    forget_job(layout)
    return False


@contextlib.contextmanager
def _cancelled_elsewhere(job: RemoteJob, result: Any, layout: Layout) -> Iterator[None]:
    """Says of a job that somebody cancels within the block just that."""
    try:
        yield
    except LeftRunningError:
        raise
    except Exception:
        if str(result.state).startswith("CANCEL"):
            forget_job(layout)
            raise UserError(f"{job} was cancelled; run the same command again to resume") from None
        raise


def run_listing(
    pipeline: beam.Pipeline, runner: str, job: RemoteJob | None, layout: Layout
) -> None:
    """Submits a job that lists for this launcher alone, and waits; Ctrl-C cancels it."""
    result = submit(pipeline, job, layout)
    with cancelled_on_interrupt(runner, [result]):
        if job is None:
            result.wait_until_finish()
            return
        if job.runner == DATAFLOW:
            write_job(layout, dataclasses.replace(job, id=result.job_id()))
        try:
            with _cancelled_elsewhere(job, result, layout):
                result.wait_until_finish()
        finally:
            forget_job(layout)


def attach(layout: Layout, *, detach: bool) -> str:
    """Waits for the job that another launcher has submitted for this output, where there is one.

    Returns: what runs, where `detach` says not to wait; else nothing: none runs any more.
    Raises LeftRunningError.
    """
    job = read_job(layout)
    if job is None:
        return ""
    state = state_of(job, layout)
    if state == RUNNING and job.lists:
        cancel_job(job)
        print(f"cancelled  {job}, whose launcher is gone; what is there is listed anew", flush=True)
        state = wait_for_end(job, layout)
    if state == RUNNING and detach:
        return str(job)
    if state == RUNNING:
        print(f"attached   {job}", flush=True)
        there = {(file.unit, file.revision) for file in parts.list_part_files(layout.parts)}
        plan = work_plan.read_plan(layout.state, layout.shard)
        todo = [unit for unit in plan.units if (unit.name, unit.revision) not in there]
        with Waiting(job.runner, todo, layout.parts, job=job), _left_on_interrupt(job, layout):
            state = wait_for_end(job, layout)
    if state == UNKNOWN:
        print(
            f"imagecensus: {job}: its runner does not answer, and its workers have shown no sign"
            " of life for 5 minutes; this run goes on, and they write nothing from now on",
            file=sys.stderr,
        )
    forget_job(layout)
    return ""


def cancel(layout: Layout) -> str:
    """Ends the job of an output; returns what was done. Raises UserError: it cannot be ended."""
    job = read_job(layout)
    if job is None or state_of(job, layout) == OVER:
        return f"{layout.output}: no job runs for it"
    cancel_job(job)
    state = wait_for_end(job, layout)
    if state == OVER:
        forget_job(layout)
    return f"cancelled  {job}; run the same command again to resume"
