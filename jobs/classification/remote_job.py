"""A job that outlives its launcher: what runs for an output, whether it still does, and its end.

One output has one job, of a fixed name. What was submitted is written beside the table, so that any
machine that can see the output can attach to the job, or cancel it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imagecensus.jobs.options.classify import DATAFLOW, FLINK
from imagecensus.model_export.common.errors import UserError, first_line
from imagecensus.transforms.storage import store

if TYPE_CHECKING:  # Beam is imported where it is used
    from apache_beam.options.pipeline_options import PipelineOptions

    from imagecensus.transforms.dataset.layout import Layout

RUNNING, OVER, UNKNOWN = "running", "over", "unknown"
ALIVE_SECONDS = 300.0  # workers leave a sign of life once a minute
_STARTING_SECONDS = 600.0  # a template's job may take so long to be there
_FLINK_ENDS = ("FINISHED", "FAILED", "CANCELED")
_MAGIC_MASTERS = ("", "[local]", "[auto]")
_MORE_SLOTS = " start TaskManagers, end other jobs, or give a lower --parallelism"
_POLL_SECONDS = 5.0
_TAKEN_SECONDS = 120.0  # a cluster has taken a job after so long, or never does


class LeftRunningError(UserError):
    """The launcher went, and its job goes on."""

    exit_code = 130


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteJob:
    """A job as it was submitted.

    Attributes:
      place: where its runner is asked: `url` of Flink; `project` and `region` of Dataflow.
      id: the runner's; empty: not known, the name is.
      began: seconds since the epoch.
      lists: it lists inputs, for a launcher that waits for it.
    """

    runner: str
    name: str
    place: dict[str, str]
    run_id: str
    began: float
    id: str = ""
    lists: bool = False

    def __str__(self) -> str:
        where = self.place.get("url") or " ".join(self.place.values())
        return f"{self.runner} job {self.name}{f' ({self.id})' if self.id else ''} at {where}"


def name_of(layout: Layout, fingerprint: str) -> str:
    """The same for each run over an output: Dataflow refuses a second job of a name."""
    text = f"{layout.output}\n{layout.shard}\n{fingerprint}"
    return f"imagecensus-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def named_job(runner: str, flags: PipelineOptions, name: str, run_id: str) -> RemoteJob | None:
    """The job that is about to be submitted; None: it ends with its launcher.

    A job has the user's name, where there is one.
    """
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions

    cloud = flags.view_as(GoogleCloudOptions)
    if runner == DATAFLOW:
        place = {"project": cloud.project or "", "region": cloud.region or ""}
    elif runner == FLINK:
        master = flags.view_as(FlinkRunnerOptions).flink_master or ""
        if master in _MAGIC_MASTERS:
            return None
        place = {"url": (master if "://" in master else f"http://{master}").rstrip("/")}
    else:
        return None
    cloud.job_name = cloud.job_name or name
    return RemoteJob(
        runner=runner, name=cloud.job_name, place=place, run_id=run_id, began=time.time()
    )


def write_job(layout: Layout, job: RemoteJob) -> None:
    """Raises StorageError."""
    store.write(layout.job, json.dumps(dataclasses.asdict(job), indent=1).encode())


def read_job(layout: Layout) -> RemoteJob | None:
    """The job that was submitted last and has not been seen to end."""
    try:
        return RemoteJob(**json.loads(store.read(layout.job)))
    except (FileNotFoundError, ValueError, TypeError):  # damaged: of no use
        return None


def forget_job(layout: Layout) -> None:
    store.delete(layout.job)
    store.delete(layout.signs)


def state_of(job: RemoteJob, layout: Layout) -> str:
    """Whether it runs, as its runner says; where that does not answer, by its workers' signs."""
    ask: Callable[[RemoteJob], list[str]] = _flink_ids if job.runner == FLINK else _dataflow_ids
    try:
        if ask(job):
            return RUNNING
        young = time.time() - job.began < _STARTING_SECONDS
        return RUNNING if job.runner == DATAFLOW and not job.id and young else OVER
    except Exception:  # no network, no rights, no such cluster any more
        return RUNNING if _shows_life(layout) else UNKNOWN


def waiting_for(job: RemoteJob | None) -> str:
    """What a job lacks to begin, as a clause with the remedy; empty: nothing, or it is not known.

    Flink takes a job that has more bundles at once than there are slots, and waits for the others.
    """
    if job is None or job.runner != FLINK:
        return ""
    try:
        tasks = _flink_tasks(job)
        cluster = _ask(f"{job.place['url']}/overview")
        slots, free = cluster["slots-total"], cluster["slots-available"]
    except Exception:  # the cluster does not answer: `state` says so
        return ""
    if not tasks.get("SCHEDULED") or tasks.get("RUNNING") or tasks.get("DEPLOYING"):
        return ""
    if not slots:
        return "it waits for a slot, and no TaskManager has registered; start one"
    if free:
        return f"it waits for more slots than the {free} of {slots} that are free;{_MORE_SLOTS}"
    return f"it waits for a slot: the cluster has {slots}, and none is free;{_MORE_SLOTS}"


def cancel_job(job: RemoteJob) -> None:
    """Asks the runner to end the job. Raises UserError where it does not answer."""
    try:
        for id_ in (_flink_ids if job.runner == FLINK else _dataflow_ids)(job):
            if job.runner == FLINK:
                _ask(f"{job.place['url']}/jobs/{id_}?mode=cancel", "PATCH")
            else:
                _cancel_dataflow(job, id_)
    except Exception as error:
        reason = getattr(error, "reason", error)  # of urllib's errors, mostly an error itself
        text = first_line(reason if isinstance(reason, Exception) else error)
        raise UserError(
            f"{job}: could not be cancelled: {text}; cancel it where it runs, then run the same"
            " command again"
        ) from None


def wait_for_end(job: RemoteJob, layout: Layout) -> str:
    """Waits while the job runs; returns its last state."""
    while (state := state_of(job, layout)) == RUNNING:
        time.sleep(_POLL_SECONDS)
    return state


def wait_for_start(job: RemoteJob) -> None:
    """Waits until a cluster has the job: until then, the job server here holds it."""
    end = time.monotonic() + _TAKEN_SECONDS
    while job.runner == FLINK and time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if _flink_ids(job, began=("RUNNING", *_FLINK_ENDS)):
                return
        time.sleep(0.5)


def _shows_life(layout: Layout) -> bool:
    try:
        return time.time() - store.stat(layout.signs).modified < ALIVE_SECONDS
    except OSError:
        return False


def _ask(url: str, method: str = "GET") -> Any:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"{}")


def _flink_ids(job: RemoteJob, began: tuple[str, ...] = ()) -> list[str]:
    """Ids of the jobs of this name that go on; or that are in one of the states given."""
    return [
        found["jid"]
        for found in _ask(f"{job.place['url']}/jobs/overview")["jobs"]
        if found["name"] == job.name
        and (found["state"] in began if began else found["state"] not in _FLINK_ENDS)
        and found["start-time"] / 1000 > job.began - ALIVE_SECONDS
    ]


def _flink_tasks(job: RemoteJob) -> dict[str, int]:
    """How many tasks of the job are in each state."""
    found: collections.Counter[str] = collections.Counter()
    for id_ in _flink_ids(job):
        for vertex in _ask(f"{job.place['url']}/jobs/{id_}")["vertices"]:
            found.update(vertex["tasks"])
    return found


def _dataflow_ids(job: RemoteJob) -> list[str]:
    from google.cloud import dataflow

    client = dataflow.JobsV1Beta3Client()
    states = dataflow.JobState
    ends = (
        states.JOB_STATE_DONE, states.JOB_STATE_FAILED, states.JOB_STATE_CANCELLED,
        states.JOB_STATE_UPDATED, states.JOB_STATE_DRAINED,
    )  # fmt: skip
    where = {"project_id": job.place["project"], "location": job.place["region"]}
    if job.id:
        request = dataflow.GetJobRequest(job_id=job.id, **where)
        found = [client.get_job(request=request)]
    else:
        active = dataflow.ListJobsRequest.Filter.ACTIVE
        request = dataflow.ListJobsRequest(filter=active, **where)
        found = [one for one in client.list_jobs(request=request) if one.name == job.name]
    return [one.id for one in found if one.current_state not in ends]


def _cancel_dataflow(job: RemoteJob, id_: str) -> None:
    from google.cloud import dataflow

    state = dataflow.JobState.JOB_STATE_CANCELLED
    dataflow.JobsV1Beta3Client().update_job(
        request=dataflow.UpdateJobRequest(
            project_id=job.place["project"], location=job.place["region"], job_id=id_,
            job=dataflow.Job(requested_state=state),
        )
    )  # fmt: skip
