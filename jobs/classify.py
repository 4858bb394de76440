"""The main job: archives of images in, one Parquet row per image out.

    list images → drop those in the plan already → cut into units of work
      → Reshuffle (units only) → read and decode → RunInference → one Parquet part per unit

Everything before the reshuffle happens here, before a worker is started; see `build_pipeline`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import sys
import time
import uuid

from jobs import startup
from jobs.options import argument, known_flags, option, parse_options, size_in_bytes, unknown_flag
from model_export.errors import UserError

IN_PROCESS = "in-process"

EPILOG = """\
Any other flag is passed to Beam, for example --runner=FlinkRunner --flink_master=HOST:8081.
Run the same command again to resume, and to add what is new in the inputs.

exit codes: 0 done; 1 books not balanced, or more failures than --max-failure-rate;
            2 refused as asked; 130 interrupted (rerun to resume)
"""


@dataclasses.dataclass(frozen=True)
class ClassifyOptions:
    """What a person may choose about a run."""

    inputs: tuple[str, ...] = argument(
        "folder, file, glob, archive (tar, zip, TFRecord, Parquet), manifest (txt, csv, tsv, jsonl,"
        " parquet), gs:// prefix or glob",
        nargs="+",
        metavar="INPUT",
    )
    output: str = option(None, "folder or gs:// prefix of the dataset", "dataset", metavar="DIR")
    model: str = option(
        None, "model folder; without it, MobileNet-V2 trained on ImageNet", "dataset", metavar="DIR"
    )
    weights: str = option(
        None, "weights file for the ImageNet model, where there is no network", "dataset",
        metavar="FILE",
    )  # fmt: skip
    model_digest: str = option(
        "", "refuse a model with another digest (its start is enough)", "dataset", metavar="HEX"
    )
    trust_model: bool = option(
        False, "run a model whose graph may touch files or the network", "dataset"
    )
    top_k: int = option(5, "best classes kept per image", "dataset", metavar="K")
    embeddings: bool = option(False, "add a column with each image's embedding", "dataset")
    uri_column: str = option("", "the manifests' column of locations", "dataset", metavar="NAME")
    image_column: str = option(
        "", "the column or feature of pictures in Parquet and TFRecords", "dataset", metavar="NAME"
    )
    limit: int = option(None, "stop listing after so many images", "run", type=int, metavar="N")
    shard: str = option("0/1", "do only shard I of N, by a digest of the uri", "run", metavar="I/N")
    retry_failed: bool = option(False, "redo the failed rows of the dataset", "run")
    no_report: bool = option(False, "do not write report.html", "run")
    dry_run: bool = option(False, "list and count, write nothing", "run")
    max_failure_rate: float = option(
        0.5, "exit with 1 if a larger share of the rows failed", "run", metavar="SHARE"
    )
    max_pixels: int = option(178_956_970, "larger pictures are not decoded", "limits", metavar="N")
    max_side: int = option(65_535, "nor are wider or higher ones", "limits", metavar="N")
    max_bytes: str = option("1G", "larger files are not read", "limits", metavar="SIZE")
    max_members: int = option(
        10_000_000, "of one archive are listed; more are one failed row", "limits", metavar="N"
    )
    decode_seconds: int = option(60, "longest that decoding one picture may take", "limits")
    decode_memory: str = option(
        "4G", "most that decoding a suspect of an earlier crash may take", "limits", metavar="SIZE"
    )
    engine: str = option("auto", "auto, openvino, tensorflow or tfx-bsl", "machine", metavar="NAME")
    precision: str = option("f32", "f32, or a lower one the engine has", "machine", metavar="NAME")
    threads: int = option(0, "for decoding and inference; 0 is one per core", "machine")
    unit_images: int = option(512, "images per unit of work and part", "machine", metavar="N")
    compression: str = option("zstd", "of the Parquet files", "machine", choices=["zstd", "snappy"])
    runner: str = option(
        IN_PROCESS, "in-process, or any Beam runner's name", "machine", metavar="NAME"
    )
    debug: bool = option(False, "show tracebacks", "machine")

    @property
    def shard_pair(self) -> tuple[int, int]:
        index, _, count = self.shard.partition("/")
        return int(index), int(count)


def main(argv: list[str]) -> int:
    """Runs the job; returns its exit code. Raises UserError for what the user can mend."""
    options, beam_args = parse_options(
        ClassifyOptions,
        argv,
        "imagecensus classify",
        "Classifies every image of the inputs into a Parquet table.",
        EPILOG,
        pass_through=True,
    )
    _validate(options)
    if beam_args:
        _validate_beam(beam_args)
    return classify(options, beam_args)


def _validate(options: ClassifyOptions) -> None:
    """Everything that can be judged at once, all problems in one message."""
    from transforms.list_images import check_inputs

    problems = check_inputs(options.inputs)
    if not options.output:
        problems.append("--output is missing: the folder of the dataset")
    positive = ("top_k", "max_pixels", "max_side", "max_members", "unit_images", "decode_seconds")
    for name in positive:
        if getattr(options, name) < 1:
            problems.append(f"--{name.replace('_', '-')} must be at least 1")
    if options.limit is not None and options.limit < 1:
        problems.append("--limit must be at least 1")
    if options.threads < 0:
        problems.append("--threads must be 0 or more")
    if not 0 <= options.max_failure_rate <= 1:
        problems.append("--max-failure-rate must be within 0 and 1")
    if options.model and options.weights:
        problems.append("--weights is for the default model; it does not go with --model")
    try:
        index, count = options.shard_pair
        if not 0 <= index < count:
            problems.append(f"--shard={options.shard}: I must be from 0 to N-1")
    except ValueError:
        problems.append(f"--shard={options.shard}: write I/N, for example 0/4")
    for flag, size in (
        ("--max-bytes", options.max_bytes),
        ("--decode-memory", options.decode_memory),
    ):
        try:
            size_in_bytes(size)
        except ValueError:
            problems.append(f"{flag}={size}: write a number with K, M or G")
    if problems:
        raise UserError("\n  ".join(["cannot start:", *problems] if problems[1:] else problems))


def classify(options: ClassifyOptions, beam_args: list[str]) -> int:
    """Plans, runs and reports; see `main`."""
    from jobs import supervise
    from jobs.run_report import Run, books, summary, write_run_report
    from model_export.contract import check_digest, read_contract
    from model_export.safety import check_graph
    from transforms import activity, dataset, fault_points, inflight, parts, plan_units, storage
    from transforms.engines import choose_engine
    from transforms.list_images import list_images, passthrough_columns

    started = time.time()
    startup.forgo_pandas()
    output = (
        options.output if storage.is_bucket(options.output) else os.path.abspath(options.output)
    )
    layout = dataset.Layout(output, options.shard_pair)
    engine = choose_engine(options.engine, options.precision, options.embeddings)
    model = _model_folder(options)
    contract = read_contract(model)
    check_digest(contract, options.model_digest, model)
    if not options.trust_model:
        check_graph(model)
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
    wanted = dataset.ingredients(
        contract,
        top_k=top_k,
        embeddings=options.embeddings,
        precision=options.precision,
        max_pixels=options.max_pixels,
        max_side=options.max_side,
        max_bytes=size_in_bytes(options.max_bytes),
        passthrough=passthrough,
    )
    fingerprint = dataset.fingerprint(wanted)
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
    )
    if options.dry_run:
        dataset.claim(layout, wanted, dry_run=True)
        lock = contextlib.nullcontext()
    else:
        layout.make()
        lock = layout.locked()
    activity.watch(options.decode_seconds)
    supervise.journals_are_in(layout.inflight)
    with lock:
        fault_points.reached("lock.taken")
        if not options.dry_run:
            dataset.claim(layout, wanted)
            layout.remove_temporary()
        listing = (time.process_time(), time.monotonic())
        run.planned = plan_units.plan_units(
            itertools.chain([first], references),
            layout.state,
            fingerprint,
            passthrough=passthrough,
            unit_rows=options.unit_images,
            limit=options.limit,
            shard=options.shard_pair,
            dry_run=options.dry_run,
        )
        units = plan_units.read_units(layout.state, options.shard_pair)
        if options.dry_run:
            units += run.planned.units
        fault_points.reached("planned")
        before = parts.take_inventory(layout.parts, units)
        run.add_stage("list", time.process_time() - listing[0], time.monotonic() - listing[1])
        if before.unplanned and options.shard_pair == plan_units.WHOLE:
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
            _run_pipeline(options, beam_args, run, layout, model, top_k, engine, todo)
        fault_points.reached("pipeline.done")
        after = parts.take_inventory(layout.parts, units) if todo else before
        pending = sum(unit.rows for unit in after.pending)
        counts = books(run, after.totals, sum(unit.rows for unit in units), pending)
        report = write_run_report(layout, run, after.totals, counts)
        fields = {"run_id": run.run_id, **counts, "seconds": round(time.time() - started, 3)}
        activity.LOGGER.info("finished: %s", counts, extra={"fields": fields})
        if not after.pending:
            inflight.forget(layout.inflight)
    print(summary(layout, report))
    _write_page(options, output, after.totals.rows)
    return _exit_code(options, run, counts)


def _write_page(options, output, rows) -> None:
    """The page for people; its lack never fails a run whose table is complete."""
    if options.no_report or not rows:
        return
    try:
        from jobs.report import write_report

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
        print("imagecensus: the books do not balance; run the same command again", file=sys.stderr)
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
    from transforms import storage

    if options.model:
        return storage.local_folder(options.model)
    from model_export.imagenet import default_model

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


def build_pipeline(pipeline, units, decoding, classification, layout, provenance, compression):
    """The job, as a list of its stages."""
    import apache_beam as beam

    from transforms.classify_images import ClassifyImages
    from transforms.decode_images import DecodeImages
    from transforms.write_parts import WriteParts

    return (
        pipeline
        | "Units" >> beam.Create(units)
        | "Reshuffle" >> beam.Reshuffle()
        | "DecodeImages" >> DecodeImages(decoding, layout.parts)
        | "ClassifyImages" >> ClassifyImages(classification)
        | "WriteParts" >> WriteParts(layout.parts, provenance, compression)
    )


def _run_pipeline(options, beam_args, run, layout, model, top_k, engine, units) -> None:
    """Runs the units through Beam, with progress, until done or Ctrl-C."""
    from transforms.engines import preload_engine

    if options.runner == IN_PROCESS:
        preload_engine(engine, model, options.precision, options.threads)
        startup.import_beam()
    import apache_beam as beam

    from jobs.beam_errors import user_errors
    from jobs.progress import progress_bar
    from jobs.run_report import versions
    from model_export.contract import read_contract
    from transforms import counters, storage
    from transforms.classify_images import Classification
    from transforms.decode_images import STOP, Decoding

    contract = read_contract(model, verify_digest=False)  # verified a moment ago
    decoding = Decoding(
        contract.preprocess,
        max_pixels=options.max_pixels,
        max_side=options.max_side,
        max_bytes=size_in_bytes(options.max_bytes),
        threads=options.threads,
        journal=layout.inflight,
        seconds=options.decode_seconds,
        memory=size_in_bytes(options.decode_memory),
    )
    # A worker elsewhere fetches a bucket's model itself.
    location = options.model if options.model and storage.is_bucket(options.model) else model
    classification = Classification(
        location,
        engine,
        options.precision,
        top_k,
        options.embeddings,
        options.threads,
        run.model_digest,
    )
    provenance = {
        "fingerprint": run.fingerprint,
        "model_digest": run.model_digest,
        "model_name": run.model_name,
        "engine": engine,
        "precision": options.precision,
        "run_id": run.run_id,
        "version": versions()["imagecensus"],
    }
    runner, beam_options = _runner(options, beam_args)
    STOP.clear()
    counters.STAGES.reset()
    start = time.monotonic()
    with (
        _graceful_interrupt(STOP),
        progress_bar("classifying", sum(u.rows for u in units), lambda: counters.STAGES.images),
    ):
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build_pipeline(
            pipeline, units, decoding, classification, layout, provenance, options.compression
        )
        with user_errors():
            result = pipeline.run()
            result.wait_until_finish()
    run.seconds = time.monotonic() - start
    run.interrupted = STOP.is_set()
    run.add_stages(counters.STAGES)
    run.counters = _counters(result)
    run.images = run.counters.get("images_read", counters.STAGES.images)


def _validate_beam(beam_args: list[str]) -> None:
    """Raises UserError for a flag that Beam does not know either: a slip is never ignored."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = _BeamFlags()
    for cls in PipelineOptions.__subclasses__():
        cls._add_argparse_args(parser)
    for word in beam_args:
        if word.startswith("--") and word.split("=")[0] not in parser.flags:
            everything = known_flags(ClassifyOptions) + sorted(parser.flags)
            raise UserError(unknown_flag(word.split("=")[0], everything, "imagecensus classify"))


def _runner(options, beam_args):
    """The runner and Beam's options."""
    from apache_beam.options.pipeline_options import PipelineOptions

    if options.runner == IN_PROCESS:
        from apache_beam.runners.portability.fn_api_runner import fn_runner

        return fn_runner.FnApiRunner(), PipelineOptions(beam_args)
    return options.runner, PipelineOptions([*beam_args, f"--runner={options.runner}"])


class _BeamFlags:
    """Takes the place of an argparse parser to learn which flags Beam has."""

    def __init__(self):
        self.flags = set()

    def add_argument(self, *names, **_):
        self.flags |= set(names)

    def add_mutually_exclusive_group(self, *_, **__):
        return self

    add_argument_group = add_mutually_exclusive_group


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


def _counters(result) -> dict:
    from transforms.counters import NAMESPACE

    counted = {}
    for metric in result.metrics().query()["counters"]:
        if metric.key.metric.namespace == NAMESPACE:
            name = metric.key.metric.name
            counted[name] = counted.get(name, 0) + (metric.committed or 0)
    return counted


if __name__ == "__main__":
    from jobs.cli import run_job

    sys.exit(run_job("jobs.classify", sys.argv[1:], "--debug" in sys.argv))
