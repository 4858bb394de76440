"""The job as a Beam pipeline: its stages, and one run of it with progress and a graceful Ctrl-C.

Importing it imports Beam: `classify` does so once there is something to run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from typing import Any

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult

from imagecensus.jobs.classification.interrupts import (
    cancelled_on_interrupt,
    follow,
    graceful_interrupt,
    submit,
)
from imagecensus.jobs.classification.remote_job import named_job
from imagecensus.jobs.classification.run_report import Run
from imagecensus.jobs.classification.runners import beam_runner, template_location, works_here
from imagecensus.jobs.classification.stall_log import Waiting
from imagecensus.jobs.classification.worker_errors import user_errors
from imagecensus.jobs.command.progress import progress_bar
from imagecensus.jobs.options.classify import IN_PROCESS, ClassifyOptions
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import Contract
from imagecensus.transforms.begin_units import BeginUnits, GiveUnits
from imagecensus.transforms.classify_images import ClassifyImages
from imagecensus.transforms.counters import CALLS, NAMESPACE, SLOW
from imagecensus.transforms.dataset.epoch import Fence, fence_of
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.decode_images import DecodeImages
from imagecensus.transforms.decoders.decode_batch import DecodingConfig
from imagecensus.transforms.engines.classify_batch import ClassificationConfig
from imagecensus.transforms.local_run import LOCAL_RUN
from imagecensus.transforms.records import Unit
from imagecensus.transforms.storage import store
from imagecensus.transforms.write_parts import WriteParts


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How units become parts: the same on every worker.

    Attributes:
      made_by: for the footers of the parts, see `Run.provenance`.
      fence: of the run; None: nothing can outlive its launcher.
    """

    decoding: DecodingConfig
    classification: ClassificationConfig
    layout: Layout
    made_by: dict[str, Any]
    compression: str = "zstd"
    fence: Fence | None = None


def build_pipeline(
    pipeline: beam.Pipeline, units: list[Unit], config: PipelineConfig
) -> beam.PCollection[str]:
    """The job, as a list of its stages."""
    parts = config.layout.parts
    return (
        pipeline
        | "Units" >> GiveUnits(units=units, folder=config.layout.state)
        | "BeginUnits" >> BeginUnits(parts=parts, fence=config.fence)
        | "DecodeImages" >> DecodeImages(config=config.decoding, parts=parts)
        | "ClassifyImages" >> ClassifyImages(config=config.classification)
        | "WriteParts"
        >> WriteParts(
            folder=parts,
            provenance=config.made_by,
            compression=config.compression,
            fence=config.fence,
        )
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a run of the pipeline is made of.

    Attributes:
      epoch: the number of this run.
      units: what is to be done.
      facts: columns of `FACT_TYPES` that the dataset keeps.
      job_name: of a job elsewhere, where the user names none.
    """

    options: ClassifyOptions
    layout: Layout
    contract: Contract
    top_k: int
    epoch: int
    units: list[Unit]
    facts: tuple[str, ...] = ()
    job_name: str = ""


def run_pipeline(request: Request, run: Run) -> None:
    """Runs the units through Beam, with progress, until done or Ctrl-C.

    Where the pipeline only becomes a template of Dataflow's, sets `run.template` and returns;
    where its job is left running, sets `run.left`.
    """
    options, units = request.options, request.units
    runner, beam_options = beam_runner(options)
    job = named_job(options.runner, beam_options, request.job_name, run.run_id)
    if job is None and options.detach:
        raise UserError(f"--detach: {options.runner} ends with this command; give it without")
    waiting = Waiting(options.runner, units, request.layout.parts, job=job)
    LOCAL_RUN.reset()
    start = time.monotonic()
    here = options.runner == IN_PROCESS  # for workers elsewhere `waiting` reports
    images = sum(unit.rows for unit in units)
    jobs: list[PipelineResult] = []
    with (
        graceful_interrupt(LOCAL_RUN.stop)
        if works_here(options, beam_options)
        else cancelled_on_interrupt(options.runner, jobs),
        progress_bar("classifying", images, lambda: LOCAL_RUN.images)
        if here
        else contextlib.nullcontext(),
    ):
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build_pipeline(pipeline, units, _config(request, run))
        run.template = template_location(options, beam_options)
        with user_errors(), waiting:
            result = submit(pipeline, job, request.layout)
            if run.template:
                return
            waiting.on(result)
            if job is None:
                jobs.append(result)
                result.wait_until_finish()
            elif follow(job, result, request.layout, detach=options.detach):
                run.left = str(job)
                return
    run.seconds = time.monotonic() - start
    run.interrupted = LOCAL_RUN.stop.is_set()
    run.add_stages(LOCAL_RUN)
    metrics = result.metrics().query()
    run.counters, run.slow = _counters(metrics), _slow(metrics)
    run.calls = sorted(_strings(metrics, CALLS))
    run.images = run.counters.get("images_read", LOCAL_RUN.images)


def _config(request: Request, run: Run) -> PipelineConfig:
    options, layout = request.options, request.layout
    decoding = DecodingConfig(
        spec=request.contract.preprocess,
        limits=options.limits,
        threads=options.threads,
        web=options.web,
        facts=request.facts,
    )
    # A worker elsewhere fetches a bucket's model itself.
    location = options.model if options.model and store.is_bucket(options.model) else run.model
    classification = ClassificationConfig(
        model=location,
        engine=run.engine,
        precision=options.precision,
        top_k=request.top_k,
        embeddings=options.embeddings,
        threads=options.threads,
        digest=run.model_digest,
    )
    signs = "" if options.runner == IN_PROCESS else layout.signs
    return PipelineConfig(
        decoding=decoding, classification=classification, layout=layout,
        made_by=run.provenance(), compression=options.compression,
        fence=fence_of(layout.epoch, layout.whole.epoch, request.epoch, signs),
    )  # fmt: skip


def _counters(metrics: dict[str, Any]) -> dict[str, int]:
    """The job's counters."""
    counted: dict[str, int] = {}
    for metric in metrics["counters"]:
        if metric.key.metric.namespace == NAMESPACE:
            name = metric.key.metric.name
            counted[name] = counted.get(name, 0) + (metric.committed or 0)
    return counted


def _strings(metrics: dict[str, Any], counter: Any) -> set[str]:
    """What a set of strings holds, over all steps."""
    return {
        text
        for metric in metrics.get("string_sets", ())
        if metric.key.metric == counter.metric_name
        for text in metric.committed or ()
    }


def _slow(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Which images were slow, slowest first."""
    # A retried unit reports it again.
    slow = {one["uri"]: one for one in map(json.loads, _strings(metrics, SLOW))}
    return sorted(slow.values(), key=lambda one: -one["seconds"])
