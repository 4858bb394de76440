"""The job as a Beam pipeline: its stages, and one run of it with progress and a graceful Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time

from imagecensus.jobs.classification.options import IN_PROCESS
from imagecensus.jobs.command import process
from imagecensus.jobs.command.options import size_in_bytes


def build_pipeline(pipeline, units, decoding, classification, layout, provenance, compression):
    """The job, as a list of its stages."""
    import apache_beam as beam

    from imagecensus.transforms.classify_images import ClassifyImages
    from imagecensus.transforms.decode_images import DecodeImages
    from imagecensus.transforms.write_parts import WriteParts

    return (
        pipeline
        | "Units" >> beam.Create(units)
        | "Reshuffle" >> beam.Reshuffle()
        | "DecodeImages" >> DecodeImages(decoding, layout.parts)
        | "ClassifyImages" >> ClassifyImages(classification)
        | "WriteParts" >> WriteParts(layout.parts, provenance, compression)
    )


def run_pipeline(options, beam_args, run, layout, contract, top_k, units, facts=()) -> None:
    """Runs the units through Beam, with progress, until done or Ctrl-C.

    Where the pipeline only becomes a template of Dataflow's, sets `run.template` and returns.
    """
    from imagecensus.transforms.engines.registry import preload_engine

    if options.runner == IN_PROCESS:
        preload_engine(run.engine, run.model, options.precision, options.threads)
        process.import_beam()
    import apache_beam as beam

    from imagecensus.jobs.classification.runners import beam_runner, template_location
    from imagecensus.jobs.classification.stall_log import Waiting
    from imagecensus.jobs.classification.worker_errors import user_errors
    from imagecensus.jobs.command.progress import progress_bar
    from imagecensus.transforms import counters
    from imagecensus.transforms.classify_images import Classification
    from imagecensus.transforms.decode_images import STOP, Decoding
    from imagecensus.transforms.storage import store

    decoding = Decoding(
        contract.preprocess,
        max_pixels=options.max_pixels,
        max_side=options.max_side,
        max_bytes=size_in_bytes(options.max_bytes),
        threads=options.threads,
        journal=layout.inflight,
        seconds=options.decode_seconds,
        memory=size_in_bytes(options.decode_memory),
        web=options.web,
        facts=facts,
    )
    # A worker elsewhere fetches a bucket's model itself.
    location = options.model if options.model and store.is_bucket(options.model) else run.model
    classification = Classification(
        location,
        run.engine,
        options.precision,
        top_k,
        options.embeddings,
        options.threads,
        run.model_digest,
    )
    runner, beam_options = beam_runner(options, beam_args)
    waiting = Waiting(options.runner, units, layout.parts)
    STOP.clear()
    counters.STAGES.reset()
    start = time.monotonic()
    with (
        _graceful_interrupt(STOP),
        progress_bar("classifying", sum(u.rows for u in units), lambda: counters.STAGES.images),
    ):
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        made_by = provenance(options, run)
        build_pipeline(
            pipeline, units, decoding, classification, layout, made_by, options.compression
        )
        run.template = template_location(options, beam_options)
        with user_errors(), waiting:
            result = pipeline.run()
            if run.template:
                return
            waiting.on(result)
            result.wait_until_finish()
    run.seconds = time.monotonic() - start
    run.interrupted = STOP.is_set()
    run.add_stages(counters.STAGES)
    run.counters, run.slow = _counters(result)
    run.images = run.counters.get("images_read", counters.STAGES.images)


def provenance(options, run) -> dict:
    """What the footer of a part says of how it was made."""
    from imagecensus.model_export.common.version import __version__

    return {
        "fingerprint": run.fingerprint,
        "model_digest": run.model_digest,
        "model_name": run.model_name,
        "engine": run.engine,
        "precision": options.precision,
        "run_id": run.run_id,
        "version": __version__,
    }


@contextlib.contextmanager
def _graceful_interrupt(stop):
    """The first Ctrl-C lets the unit in work finish and be committed; a second one ends at once."""

    def on_signal(*_):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print(
            "\nimagecensus: finishing the unit in work; Ctrl-C again to stop at once",
            file=sys.stderr,
        )

    try:
        before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _counters(result) -> tuple[dict, list]:
    """The job's counters, and which images were slow, slowest first."""
    from imagecensus.transforms.counters import NAMESPACE, SLOW

    counted, slow = {}, {}
    metrics = result.metrics().query()
    for metric in metrics["counters"]:
        if metric.key.metric.namespace == NAMESPACE:
            name = metric.key.metric.name
            counted[name] = counted.get(name, 0) + (metric.committed or 0)
    for metric in metrics.get("string_sets", ()):
        if metric.key.metric == SLOW.metric_name:
            for one in map(json.loads, metric.committed or ()):
                slow[one["uri"]] = one  # a retried unit tells it again
    return counted, sorted(slow.values(), key=lambda one: -one["seconds"])
