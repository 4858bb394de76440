"""The main job: archives of images in, one Parquet row per image out.

    list images → drop those in the plan already → cut into units of work
      → Reshuffle (units only) → read and decode → RunInference → one Parquet part per unit

Everything before the reshuffle happens here, before a worker is started; the rest is
`imagecensus.jobs.classification.pipeline`.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("classify")

import contextlib
import dataclasses
import itertools
import os
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pyarrow as pa

from imagecensus.jobs.classification.beam_flags import validate_beam
from imagecensus.jobs.classification.calibrate import model_with_int8
from imagecensus.jobs.classification.interrupts import attach, cancel
from imagecensus.jobs.classification.remote_job import name_of
from imagecensus.jobs.classification.run_report import (
    Run,
    count_totals,
    listed_line,
    summary,
    write_gone,
    write_run_report,
)
from imagecensus.jobs.command import process
from imagecensus.jobs.command.progress import progress_bar
from imagecensus.jobs.options.classify import IN_PROCESS, ClassifyOptions
from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.ignored_names import left_out_text
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.common.redact import redact
from imagecensus.model_export.contract import Contract, check_digest, read_contract
from imagecensus.model_export.default_model import default_model, former_default_model
from imagecensus.model_export.safety import check_graph
from imagecensus.transforms import activity
from imagecensus.transforms.activity import doing
from imagecensus.transforms.dataset import (
    compaction,
    delta_table,
    inventory,
    ledger,
    parts,
    work_plan,
)
from imagecensus.transforms.dataset.epoch import raise_epoch
from imagecensus.transforms.dataset.inventory import Inventory
from imagecensus.transforms.dataset.layout import (
    Layout,
    claim,
    fact_columns,
    fingerprint_of,
    identity_of,
    stored_identity,
)
from imagecensus.transforms.dataset.plan_units import Planned, Revising, plan_units
from imagecensus.transforms.dataset.raw_pairs import with_column
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.engines.precision import Choice, choose_precision
from imagecensus.transforms.engines.registry import choose_engine, match_engine, preload_engine
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import list_images, passthrough_columns, source_of
from imagecensus.transforms.local_run import LOCAL_RUN
from imagecensus.transforms.records import Unit
from imagecensus.transforms.storage.copies import local_folder
from imagecensus.transforms.storage.locations import is_bucket

# A IIIF server is asked for images whose longer side is so many times what the model sees: the
# shorter side of all but panoramas is then no smaller.
IIIF_SIDES = 4

# A page at the end of each run reads all of the table, with 41 KB of memory for each part.
MOST_PARTS = 2000


def main(options: ClassifyOptions) -> int:
    """Runs the job; returns its exit code. Raises UserError for what the user can fix."""
    validate_beam(options.beam_args, options.runner)
    return classify(options)


def classify(options: ClassifyOptions) -> int:
    """Plans, runs and reports; see `main`."""
    options.web.apply()
    output = options.output
    if not is_bucket(output):
        output = os.path.abspath(output)
    layout = Layout(output=output, shard=options.shard_pair)
    if options.cancel:
        print(cancel(layout))
        return 0
    with (
        lease(options.limits, options.threads) as decoders,  # for the listing, and for a run here
        contextlib.ExitStack() as at_end,
    ):
        if options.runner == IN_PROCESS and not options.dry_run:
            decoders.start()  # they take as long as all that comes before the first image
        return _classify(options, layout, at_end)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done, judged and complete: nothing in it can be refused any more."""

    options: ClassifyOptions
    layout: Layout
    contract: Contract
    top_k: int
    identity: dict[str, Any]  # all that decides what the rows say
    passthrough: pa.Schema
    references: Iterator[pa.RecordBatch]  # none, where workers list
    selection: Selection
    run: Run
    delta: bool  # whether the run ends with a version of the output's Delta table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is left to do, and what is there already.

    Attributes:
      planned: the comparison of the listing with the plan.
      present: the parts that were there before this run.
      todo: units to be classified.
      settled: units that only take over rows: nothing of them is classified.
      fingerprint: of the dataset.
      epoch: the number of this run, which workers of earlier ones notice.
    """

    planned: Planned
    present: Inventory
    todo: list[Unit]
    settled: list[Unit]
    fingerprint: str
    epoch: int


def _classify(
    options: ClassifyOptions,
    layout: Layout,
    at_end: contextlib.ExitStack,
) -> int:
    job = prepare(options, layout, at_end)
    if not options.dry_run:
        layout.make()
    activity.watch()
    with contextlib.nullcontext() if options.dry_run else layout.locked(_stop) as lock:
        fault_injection.reached("lock.taken")
        running = "" if options.dry_run else attach(layout, detach=options.detach)
        if running:
            print(_left_text(running))
            return 0
        work = plan_work(job, lock.check_held if lock else lambda: None)
        if options.dry_run:
            print(_dry_run_text(job, work))
            return 0
        run_work(job, work)
        if job.run.left:
            print(_left_text(job.run.left))
            return 0
        if job.run.template:
            print(
                f"pipeline   {job.run.template}, for Dataflow to run\nRun the same command without"
                " --runner: it waits for that job, checks the totals and writes the report."
            )
            return 0
        fault_injection.reached("pipeline.done")
        if lock:
            lock.check_held()
        report = close_run(job, work, lock.check_held if lock else lambda: None)
    print(summary(layout, report))
    _write_page(options, layout.output, report)
    return _exit_code(options, job.run, report["totals"])


def _left_text(running: str) -> str:
    return (
        f"running    {running}\nRun the same command again to attach to it, or with --cancel to end"
        " it; `imagecensus status` says how far it is."
    )


def _stop() -> None:
    """Lets a run in this process end with the unit in work: the output is another run's now."""
    LOCAL_RUN.stop.set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The model of a run, and how it is run."""

    model: str  # its folder
    contract: Contract
    engine: str
    precision: Choice


def prepare(
    options: ClassifyOptions,
    layout: Layout,
    at_end: contextlib.ExitStack,
) -> Job:
    """Loads and checks the model, and begins the listing. Raises UserError for every refusal.

    `at_end` ends the listing, also where it was not read to its end.
    """
    started = time.time()
    process.skip_pandas()
    delta = _keeps_delta(options, layout)
    present = stored_identity(layout)
    chosen = _choose_model(options, present)
    less: dict[str, Any] = {"accept_truncated": options.accept_truncated}
    preprocess = dataclasses.replace(chosen.contract.preprocess, **less)
    contract = dataclasses.replace(chosen.contract, preprocess=preprocess)
    options = dataclasses.replace(options, precision=chosen.precision.precision)
    if options.calibrate_on_archive:
        options = dataclasses.replace(options, model=chosen.model)
    side = IIIF_SIDES * max(contract.preprocess.shape[:2])
    dataclasses.replace(options.web, image_side=side).apply()
    top_k = min(options.top_k, len(contract.labels))
    if top_k > contract.top_k:
        raise UserError(
            f"--top-k={options.top_k}: {chosen.model} answers with the best {contract.top_k} of its"
            f" {len(contract.labels):,} classes; ask for at most {contract.top_k}, or export it"
            " again with a larger top-k"
        )
    passthrough = passthrough_columns(options.inputs, options.uri_column, options.image_column)
    passthrough = with_column(passthrough, present.get("columns") if present else None)
    selection = Selection(exclude=options.exclude or (), include=options.include or ())
    references: Iterator[pa.RecordBatch] = iter(())
    if not _on_workers(options):
        listing = at_end.enter_context(contextlib.closing(_list(options, passthrough, selection)))
        references = _not_empty(listing, options, selection)
    identity = identity_of(
        contract,
        top_k=top_k,
        embeddings=options.embeddings,
        precision=options.precision,
        limits=options.limits,
        passthrough=passthrough,
        facts=fact_columns(present, gps=options.gps, share=options.accept_truncated > 0),
    )
    run = _run(options, chosen, fingerprint_of(identity), started)
    run.left_out = selection.left_out
    return Job(
        options=options, layout=layout, contract=contract, top_k=top_k,
        identity=identity, passthrough=passthrough, run=run, delta=delta, references=references,
        selection=selection,
    )  # fmt: skip


def _keeps_delta(options: ClassifyOptions, layout: Layout) -> bool:
    """Whether the output has a Delta table, or shall get one. Raises UserError: no library."""
    # What shards do is committed by the next run over everything.
    there = layout.shard == work_plan.WHOLE and delta_table.exists(layout)
    if there or options.table == "delta":
        delta_table.check_library()
    return there or options.table == "delta"


def _run(options: ClassifyOptions, chosen: _Chosen, fingerprint: str, started: float) -> Run:
    return Run(
        run_id=uuid.uuid4().hex[:12],
        started=started,
        inputs=options.inputs,
        model=chosen.model,
        model_name=chosen.contract.name,
        model_digest=chosen.contract.digest,
        fingerprint=fingerprint,
        engine=chosen.engine,
        runner=options.runner,
        precision=chosen.precision.precision,
        precision_reason=chosen.precision.reason,
        drop_gone=options.drop_gone,
    )


def _choose_model(options: ClassifyOptions, present: dict[str, Any]) -> _Chosen:
    """The model, its engine and precision. `present`: the dataset's stored identity."""
    here = options.runner == IN_PROCESS
    engine = choose_engine(options.engine, options.precision, options.embeddings, here=here)
    model = _model_folder(options, present.get("model", ""))
    engine = match_engine(engine, options.engine, model)
    contract = read_contract(model)
    check_digest(contract, options.model_digest, model)
    if not options.trust_model:
        check_graph(model)
    if options.calibrate_on_archive:
        model = model_with_int8(options, model, present.get("model", ""))
        contract = read_contract(model)
    choice = choose_precision(
        options.precision,
        engine,
        model,
        contract,
        present=present.get("precision", ""),
        here=here,
    )
    return _Chosen(model=model, contract=contract, engine=engine, precision=choice)


def plan_work(job: Job, check_held: Callable[[], None]) -> Work:
    """Lists, compares with the plan and with the parts, and writes the plan of what is to be done.

    `check_held` raises where another run has taken the output over, before the plan is written.
    Raises UserError: the output holds another dataset, or parts that no plan knows.
    """
    options, layout, run = job.options, job.layout, job.run
    dry_run, shard = options.dry_run, options.shard_pair
    run.fingerprint, passthrough = claim(layout, job.identity, job.passthrough, dry_run)
    epoch = 0
    if not dry_run:  # from here on, workers of an earlier run begin and write nothing
        epoch = raise_epoch(layout.epoch, run.run_id)
        layout.remove_temporary()
        layout.remove_listings()
        compaction.recover_or_refuse(layout)
    began = (time.process_time(), time.monotonic())
    plan = work_plan.read_plan(layout.state, shard)
    known = ledger.to_trust(ledger.read_ledger(layout.state), options.verify)
    present = inventory.take_inventory(layout.parts, plan, run.fingerprint, known)
    unplanned = present.unplanned if shard == work_plan.WHOLE else []
    if not dry_run:
        unplanned = compaction.remove_late(layout.state, unplanned, run.fingerprint)
    if unplanned:
        raise UserError(
            f"{unplanned[0]}: not in this dataset's plan, as {len(unplanned)} parts in all; their"
            " rows would count twice: move them away and run the same command again"
        )
    if not dry_run:  # from here on, a part that exists is finished
        inventory.remove([*present.damaged, *present.stale])
    run.damaged = len(present.damaged)
    revising = Revising(
        whole=tuple(map(source_of, options.inputs)),
        drop_gone=options.drop_gone,
        bases=present.bases | {name: p.file.revision for name, p in present.parts.items()},
        retry=frozenset(present.with_failures if options.retry_failed else ()),
        failed=lambda name: inventory.failed_uris(present.parts[name]),
        hashes=lambda name: (
            inventory.content_hashes(present.parts[name]) if name in present.parts else {}
        ),
        relocate=(source_of(options.relocate[0]), source_of(options.relocate[1]))
        if options.relocate
        else None,
    )
    on_workers = _on_workers(options)
    references = _list_on_workers(job, epoch) if on_workers else job.references
    planned = plan_units(
        _reported(references, options.inputs), layout.state, run.fingerprint,
        passthrough=passthrough, unit_rows=options.unit_images, limit=options.limit,
        shard=shard, dry_run=dry_run, plan=plan, revising=revising, before_writing=check_held,
    )  # fmt: skip
    if on_workers:
        layout.remove_listings()
    fault_injection.reached("planned")
    run.planned = planned
    run.add_stage("list", time.process_time() - began[0], time.monotonic() - began[1])
    done = {(name, part.file.revision) for name, part in present.parts.items()}
    todo = [unit for unit in planned.plan.units if (unit.name, unit.revision) not in done]
    settled = [] if dry_run else [u for u in todo if parts.is_settled(layout.parts, u)]
    return Work(
        planned=planned, present=present, fingerprint=run.fingerprint, epoch=epoch,
        todo=[unit for unit in todo if unit not in set(settled)], settled=settled,
    )  # fmt: skip


def run_work(job: Job, work: Work) -> None:
    """Takes rows over where nothing else is to be done, and runs the pipeline over the rest."""
    run, layout = job.run, job.layout
    process.release_memory()  # of planning
    for unit in work.settled:
        parts.settle(layout.parts, unit, run.provenance(), job.options.compression)
    if work.todo:
        fields = {"run_id": run.run_id, "units": len(work.todo), "engine": run.engine}
        units = counted(len(work.todo), "unit")
        activity.LOGGER.info("classifying %s", units, extra={"fields": fields})
        with process.importing():
            if job.options.runner == IN_PROCESS:
                with process.without_unused():
                    preload_engine(run.engine, run.model, run.precision, job.options.threads)
                process.import_beam()
            from imagecensus.jobs.classification.pipeline import (  # brings Beam
                Request,
                run_pipeline,
            )

        run_pipeline(
            Request(
                options=job.options, layout=layout,
                contract=job.contract, top_k=job.top_k, epoch=work.epoch, units=work.todo,
                facts=tuple(job.identity.get("facts", ())),
                job_name=name_of(layout, work.fingerprint),
            ),
            run,
        )  # fmt: skip


def close_run(job: Job, work: Work, check_held: Callable[[], None]) -> dict[str, Any]:
    """Looks at what was written, counts, and writes the run report; returns it.

    `check_held` raises where another run has taken the output over.
    """
    run, layout, plan = job.run, job.layout, work.planned.plan
    after = inventory.take_inventory(layout.parts, plan, run.fingerprint, work.present.ledger)
    unplanned = after.unplanned if layout.shard == work_plan.WHOLE else []
    unplanned = compaction.remove_late(layout.state, unplanned, run.fingerprint)
    if unplanned:
        raise UserError(
            f"{unplanned[0]}: another run has written to this output meanwhile;"
            " run the same command again"
        )
    inventory.remove(after.stale)
    alone = layout.shard == work_plan.WHOLE
    new = ledger.together([work.present.new, after.new])
    ledger.write_ledger(layout.state, run.run_id, new, after.ledger if alone else None)
    pending = sum(unit.rows for unit in after.pending)
    counts = count_totals(run, after.totals, sum(unit.rows for unit in plan.units), pending)
    if job.delta and counts["balanced"]:
        about = {"run_id": run.run_id, "rows": counts["rows"], "interrupted": run.interrupted}
        run.delta = delta_table.commit(layout, after.damaged, about, check_held)
    report = write_run_report(layout, run, after.totals, counts)
    write_gone(layout, work.planned.gone)
    fields = {"run_id": run.run_id, **counts, "seconds": round(time.time() - run.started, 3)}
    activity.LOGGER.info("finished: %s", counts, extra={"fields": fields})
    return report


def _on_workers(options: ClassifyOptions) -> bool:
    return options.list_on_workers and not options.dry_run  # which writes nothing


def _list_on_workers(job: Job, epoch: int) -> Iterator[pa.RecordBatch]:
    """The listing, of which workers do what they can."""
    with process.importing():
        from imagecensus.jobs.classification.list_on_workers import WorkersListing  # brings Beam

    workers = WorkersListing(
        options=job.options, layout=job.layout, run_id=job.run.run_id,
        epoch=epoch, job_name=name_of(job.layout, job.run.fingerprint), selection=job.selection,
    )  # fmt: skip
    listing = _list(job.options, job.passthrough, job.selection, workers.listed)
    return _not_empty(listing, job.options, job.selection)


def _not_empty(
    listing: Iterator[pa.RecordBatch], options: ClassifyOptions, selection: Selection
) -> Iterator[pa.RecordBatch]:
    """The listing, begun. Raises UserError where there is nothing."""
    first = next(listing, None)
    if first is None:
        left_out = left_out_text(selection.left_out)
        more = f"; left out by rule: {left_out}" if left_out else ""
        raise UserError(f"{', '.join(options.inputs)}: no images there{more}")
    return itertools.chain([first], listing)


def _list(
    options: ClassifyOptions, columns: pa.Schema, selection: Selection,
    by_workers: Callable[[str], Iterator[pa.RecordBatch] | None] = lambda text: None,
) -> Generator[pa.RecordBatch, None, None]:  # fmt: skip
    """The listing, with the input that each reference comes from."""
    return list_images(
        options.inputs, options.uri_column, options.image_column, options.max_members, columns,
        selection=selection, all_pages=options.pages == "all",
        zip_encoding=options.zip_encoding, with_sources=True, by_workers=by_workers,
    )  # fmt: skip


def _reported(
    batches: Iterator[pa.RecordBatch], inputs: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """The batches; a listing that takes long, or gets stuck, says so."""
    what, listed = redact(", ".join(inputs)), 0
    with progress_bar("listing", None, lambda: listed):
        while True:
            with doing("listing", what):
                batch = next(batches, None)
            if batch is None:
                return
            listed += batch.num_rows
            yield batch


def _write_page(options: ClassifyOptions, output: str, report: dict[str, Any]) -> None:
    """The page for people; its lack never fails a run whose table is complete."""
    if options.no_report or not report["totals"]["rows"]:
        return
    if report["parts"] > MOST_PARTS:
        print(
            f"page       `imagecensus report {output}` writes it,"
            f" from {counted(report['parts'], 'part')}"
        )
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


def _exit_code(options: ClassifyOptions, run: Run, counts: dict[str, Any]) -> int:
    assert run.planned is not None
    if run.planned.unlisted:
        more = len(run.planned.unlisted) - 1
        print(
            f"imagecensus: {run.planned.unlisted[0]} could not be listed"
            f"{f', nor {more:,} more' if more else ''};"
            " see the column `error`, then run the same command again",
            file=sys.stderr,
        )
    if run.interrupted:
        print(
            f"imagecensus: interrupted with {counted(counts['pending'], 'image')} to go;"
            " run the same command again to resume",
            file=sys.stderr,
        )
        return 130
    if not counts["balanced"]:
        print("imagecensus: the totals do not balance; run the same command again", file=sys.stderr)
        return 1
    images = counts["rows"] - counts["not_images"]
    if counts["failed"] > options.max_failure_rate * images:
        print(
            f"imagecensus: {counts['failed']:,} of {counted(images, 'image')} failed, more than"
            f" --max-failure-rate={options.max_failure_rate:g}; see the column `error`",
            file=sys.stderr,
        )
        return 1
    if counts["rows"] and not images:
        print(
            f"imagecensus: no image among {counted(counts['rows'], 'file')};"
            " see the column `error`",
            file=sys.stderr,
        )
        return 1
    return 1 if run.planned.unlisted else 0


def _model_folder(options: ClassifyOptions, digest: str) -> str:
    """`digest`: the digest of the dataset's model; empty: it is new."""
    if options.model:
        return local_folder(options.model)

    # A dataset keeps the default model that it was created with, where an update has another.
    former = former_default_model(digest, options.weights) if digest else None
    return former or default_model(options.weights)


def _dry_run_text(job: Job, work: Work) -> str:
    totals, options = work.present.totals, job.options
    again = work.planned.again
    images = sum(again.get((unit.name, unit.revision), unit.rows) for unit in work.todo)
    return (
        f"would classify {counted(images, 'image')} in {counted(len(work.todo), 'unit')}"
        f" with {job.run.model_name} ({job.run.engine}, {options.runner})\n"
        f"{listed_line(count_totals(job.run, totals, 0, 0))}; {counted(totals.rows, 'row')} done;"
        f" {totals.failed:,} of them failed\nnothing was written"
    )
