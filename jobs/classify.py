"""The main job: archives of images in, one Parquet row per image out.

    list images → drop those in the plan already → cut into units of work
      → Reshuffle (units only) → read and decode → RunInference → one Parquet part per unit

Everything before the reshuffle happens here, before a worker is started; the rest is
`imagecensus.jobs.classification.pipeline`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import sys
import time
import uuid

from imagecensus.jobs.classification.options import (
    EPILOG,
    IN_PROCESS,
    ClassifyOptions,
    validate,
    validate_beam,
)
from imagecensus.jobs.command import process
from imagecensus.jobs.command.options import parse_known_options, size_in_bytes
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.redact import redact

# A IIIF server is asked for images whose longer side is so many times what the model sees: the
# shorter side of all but panoramas is then no smaller.
IIIF_SIDES = 4


def main(argv: list[str]) -> int:
    """Runs the job; returns its exit code. Raises UserError for what the user can mend."""
    options, beam_args = parse_known_options(
        ClassifyOptions,
        argv,
        "imagecensus classify",
        "Classifies every image of the inputs into a Parquet table.",
        EPILOG,
    )
    validate(options)
    if beam_args:
        validate_beam(beam_args)
    return classify(options, beam_args)


def classify(options: ClassifyOptions, beam_args: list[str]) -> int:
    """Plans, runs and reports; see `main`."""
    from imagecensus.jobs.classification import supervise
    from imagecensus.transforms.dataset.layout import Layout
    from imagecensus.transforms.decoders import guard_listing
    from imagecensus.transforms.storage.locations import is_bucket

    options.web.apply()
    output = options.output
    if not is_bucket(output):
        output = os.path.abspath(output)
    layout = Layout(output, options.shard_pair)
    supervise.journals_are_in(layout.listing)
    with guard_listing.journal_in(layout.listing, size_in_bytes(options.decode_memory)):
        return _classify(options, beam_args, layout)


def _classify(options: ClassifyOptions, beam_args: list[str], layout) -> int:
    from imagecensus.jobs.classification import supervise
    from imagecensus.jobs.classification.calibrate import model_with_int8
    from imagecensus.jobs.classification.pipeline import run_pipeline
    from imagecensus.jobs.classification.run_report import (
        Run,
        count_totals,
        summary,
        write_run_report,
    )
    from imagecensus.model_export.contract import check_digest, read_contract
    from imagecensus.model_export.safety import check_graph
    from imagecensus.transforms import activity, fault_injection
    from imagecensus.transforms.dataset import parts, work_plan
    from imagecensus.transforms.dataset.layout import (
        claim,
        dataset_ingredients,
        fact_columns,
        fingerprint_of,
        ingredients,
    )
    from imagecensus.transforms.decoders import inflight
    from imagecensus.transforms.engines.precision import choose_precision
    from imagecensus.transforms.engines.registry import choose_engine
    from imagecensus.transforms.list_images import list_images, passthrough_columns

    started = time.time()
    process.forgo_pandas()
    engine = choose_engine(options.engine, options.precision, options.embeddings)
    model = _model_folder(options)
    contract = read_contract(model)
    check_digest(contract, options.model_digest, model)
    if not options.trust_model:
        check_graph(model)
    present = dataset_ingredients(layout)
    if options.calibrate_on_archive:
        model = model_with_int8(options, model, present.get("model", ""))
        contract = read_contract(model)
        options = dataclasses.replace(options, model=model)
    choice = choose_precision(
        options.precision,
        engine,
        model,
        contract,
        present=present.get("precision", ""),
        here=options.runner == IN_PROCESS,
    )
    options = dataclasses.replace(options, precision=choice.precision)
    side = IIIF_SIDES * max(contract.preprocess.shape[:2])
    dataclasses.replace(options.web, image_side=side).apply()
    top_k = min(options.top_k, len(contract.labels))
    if top_k > contract.top_k:
        raise UserError(
            f"--top-k={top_k}: {model} answers with {contract.top_k} classes;"
            " export it again with a larger top-k"
        )

    passthrough = passthrough_columns(options.inputs, options.uri_column, options.image_column)
    references = list_images(
        options.inputs, options.uri_column, options.image_column, options.max_members
    )
    first = next(references, None)
    if first is None:
        raise UserError(f"{', '.join(options.inputs)}: no images there")
    wanted = ingredients(
        contract,
        top_k=top_k,
        embeddings=options.embeddings,
        precision=options.precision,
        max_pixels=options.max_pixels,
        max_side=options.max_side,
        max_bytes=size_in_bytes(options.max_bytes),
        passthrough=passthrough,
        facts=fact_columns(present, options.gps),
    )
    fingerprint = fingerprint_of(wanted)
    run = Run(
        run_id=uuid.uuid4().hex[:12],
        started=started,
        inputs=options.inputs,
        model=model,
        model_name=contract.name,
        model_digest=contract.digest,
        fingerprint=fingerprint,
        engine=engine,
        runner=options.runner,
        precision=choice.precision,
        precision_reason=choice.reason,
    )
    if options.dry_run:
        claim(layout, wanted, dry_run=True)
        lock = contextlib.nullcontext()
    else:
        layout.make()
        lock = layout.locked()
    activity.watch(options.decode_seconds)
    with lock:
        fault_injection.reached("lock.taken")
        if not options.dry_run:
            claim(layout, wanted)
            layout.remove_temporary()
        listing = (time.process_time(), time.monotonic())
        run.planned = work_plan.plan_units(
            _told(itertools.chain([first], references), options.inputs),
            layout.state,
            fingerprint,
            passthrough=passthrough,
            unit_rows=options.unit_images,
            limit=options.limit,
            shard=options.shard_pair,
            dry_run=options.dry_run,
        )
        units = work_plan.read_units(layout.state, options.shard_pair)
        if options.dry_run:
            units += run.planned.units
        fault_injection.reached("planned")
        supervise.journals_are_in(layout.inflight)
        before = parts.take_inventory(layout.parts, units)
        run.add_stage("list", time.process_time() - listing[0], time.monotonic() - listing[1])
        if before.unplanned and options.shard_pair == work_plan.WHOLE:
            raise UserError(
                f"{before.unplanned[0]}: not in this dataset's plan, as {len(before.unplanned)}"
                " parts in all; their rows would count twice: move them away and run the same"
                " command again"
            )
        todo = list(before.pending)
        if options.retry_failed:
            todo += [dataclasses.replace(unit, retry=True) for unit in before.with_failures]
        if options.dry_run:
            print(_dry_run_text(run, before, todo, options))
            return 0
        run.damaged = len(before.damaged)
        if todo:
            fields = {"run_id": run.run_id, "units": len(todo), "engine": engine}
            activity.LOGGER.info("classifying %d units", len(todo), extra={"fields": fields})
            facts = tuple(wanted.get("facts", ()))
            run_pipeline(options, beam_args, run, layout, contract, top_k, todo, facts)
        if run.template:
            print(
                f"pipeline   {run.template}, for Dataflow to run\nWhen it has ended, run the same"
                " command without --runner: it checks the totals and writes the report."
            )
            return 0
        fault_injection.reached("pipeline.done")
        after = parts.take_inventory(layout.parts, units) if todo else before
        pending = sum(unit.rows for unit in after.pending)
        counts = count_totals(run, after.totals, sum(unit.rows for unit in units), pending)
        report = write_run_report(layout, run, after.totals, counts)
        fields = {"run_id": run.run_id, **counts, "seconds": round(time.time() - started, 3)}
        activity.LOGGER.info("finished: %s", counts, extra={"fields": fields})
        if not after.pending:
            inflight.forget(layout.inflight)
    print(summary(layout, report))
    _write_page(options, layout.output, after.totals.rows)
    return _exit_code(options, run, counts)


def _told(batches, inputs: tuple[str, ...]):
    """The batches; a listing that gets stuck says so."""
    from imagecensus.transforms.activity import doing

    batches, what = iter(batches), redact(", ".join(inputs))
    while True:
        with doing("listing", what):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _write_page(options, output, rows) -> None:
    """The page for people; its lack never fails a run whose table is complete."""
    if options.no_report or not rows:
        return
    try:
        from imagecensus.jobs.report import write_report

        print(f"look at    {write_report(output)}")
    except ImportError as error:
        print(
            f"imagecensus: no report.html: {error}; pip install imagecensus[report]",
            file=sys.stderr,
        )
    except UserError as error:
        print(f"imagecensus: no report.html: {error}", file=sys.stderr)


def _exit_code(options, run, counts) -> int:
    if run.interrupted:
        print(
            f"imagecensus: interrupted with {counts['pending']:,} images to go;"
            " run the same command again to resume",
            file=sys.stderr,
        )
        return 130
    if not counts["balanced"]:
        print("imagecensus: the totals do not balance; run the same command again", file=sys.stderr)
        return 1
    if counts["failed"] > options.max_failure_rate * counts["rows"]:
        print(
            f"imagecensus: {counts['failed']:,} of {counts['rows']:,} images failed, more than"
            f" --max-failure-rate={options.max_failure_rate:g}; see the column `error`",
            file=sys.stderr,
        )
        return 1
    return 0


def _model_folder(options: ClassifyOptions) -> str:
    from imagecensus.transforms.storage import store

    if options.model:
        return store.local_folder(options.model)
    from imagecensus.model_export.default_model import default_model

    return default_model(options.weights)


def _dry_run_text(run, before, todo, options) -> str:
    planned = run.planned
    return (
        f"would classify {sum(unit.rows for unit in todo):,} images in {len(todo):,} units"
        f" with {run.model_name} ({run.engine}, {options.runner})\n"
        f"listed {planned.listed:,} = {planned.added:,} new + {planned.known:,} known"
        f" + {planned.duplicates:,} duplicates; {before.totals.rows:,} rows done;"
        f" {before.totals.failed:,} of them failed\nnothing was written"
    )


if __name__ == "__main__":
    from imagecensus.jobs.cli import command

    command("classify")
