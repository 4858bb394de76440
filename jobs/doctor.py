"""`imagecensus doctor`: looks before a run spends anything. Takes the arguments of `classify`.

Each finding says what was looked at, what is wrong and what to do. The checks are plain functions
from options to findings; the last one sends one element through the runner, so that the versions
it compares are those of the workers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import urllib.request
from typing import NamedTuple

from jobs.classify import _model_folder
from jobs.classify_options import DATAFLOW, IN_PROCESS, ClassifyOptions, validate_beam
from jobs.options import argument, parse_options
from jobs.runners import MAGIC_MASTERS, is_remote
from model_export.errors import UserError
from model_export.version import __version__
from transforms import storage

MIN_FREE_DISK = 2 << 30


@dataclasses.dataclass(frozen=True)
class DoctorOptions(ClassifyOptions):
    """What `classify` takes; inputs may be left out."""

    inputs: tuple[str, ...] = argument("what is to be classified", nargs="*", metavar="INPUT")


class Finding(NamedTuple):
    """One thing looked at. `level` is "ok", "warn" or "fail"; `remedy` is empty for "ok"."""

    level: str
    check: str
    detail: str
    remedy: str = ""


def main(argv: list[str]) -> int:
    """Prints the findings; 1 where one of them would stop or spoil a run."""
    options, beam_args = parse_options(
        DoctorOptions,
        argv,
        "imagecensus doctor",
        "Checks whether a classify run with these arguments can work, before it spends anything.",
        "exit codes: 0 nothing in the way; 1 something is",
        pass_through=True,
    )
    validate_beam(beam_args)
    failed = False
    for finding in examine(options, beam_args):
        print(f"{finding.level:<5} {finding.check:<8} {finding.detail}", flush=True)
        if finding.remedy:
            print(f"{'':14} -> {finding.remedy}", flush=True)
        failed |= finding.level == "fail"
    return int(failed)


def examine(options: ClassifyOptions, beam_args: list[str]):
    """Yields the findings, cheap checks first."""
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = PipelineOptions(beam_args).get_all_options()
    yield from check_machine(options)
    yield from check_credentials(options)
    yield from check_inputs(options)
    yield from check_output(options, flags)
    yield from check_model(options, flags)
    bad = False
    for finding in check_runner(options, flags):
        bad |= finding.level == "fail"
        yield finding
    if options.runner not in (IN_PROCESS, DATAFLOW) and not bad:
        yield from check_workers(options, beam_args)


def check_machine(options: ClassifyOptions):
    """Versions, memory and disk of this machine."""
    yield Finding("ok", "versions", f"{_versions()}, here")
    try:
        with open("/proc/meminfo") as file:
            free = int(re.search(r"MemAvailable:\s+(\d+)", file.read())[1]) << 10
    except (OSError, TypeError):
        free = None
    if free is not None:
        # Measured: 0.7 GB for the process with MobileNet-V2; pictures being decoded on top.
        threads = options.threads or os.cpu_count() or 1
        need = (700 << 20) + threads * (200 << 20)
        level = "ok" if free >= need else "warn"
        remedy = "" if level == "ok" else "use fewer --threads, or a smaller --max-pixels"
        text = f"{free / 2**30:.1f} GiB free, about {need / 2**30:.1f} needed"
        yield Finding(level, "memory", f"{text} with {threads} threads", remedy)


def check_credentials(options: ClassifyOptions):
    """Whether Google's services can be asked, where a bucket or Dataflow is to be used."""
    places = [*options.inputs, options.output or "", options.model or ""]
    if options.runner != DATAFLOW and not any(map(storage.is_bucket, places)):
        return
    try:
        storage.bucket_client()
    except UserError as error:
        text, _, remedy = str(error).rpartition("; ")
        yield Finding("fail", "google", text, remedy)
        return
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    yield Finding("ok", "google", f"emulator at {emulator}" if emulator else "credentials found")


def check_inputs(options: ClassifyOptions):
    """Whether something is listed, and the first picture can be read."""
    from model_export.preprocess import ImageError
    from transforms.list_images import list_images
    from transforms.read_images import read_image

    for text in options.inputs:
        try:
            first = next(list_images((text,), options.uri_column, options.image_column), None)
            if first is None or not first.num_rows:
                yield Finding("fail", "input", f"{text}: no images there", "check the path")
                continue
            row = first.slice(0, 1).to_pylist()[0]
            if row["container"] is None:
                read_image(row["uri"], row["size"], row["etag_or_mtime"])
            yield Finding("ok", "input", f"{text}: listed, {row['uri']} can be read")
        except ImageError as error:
            detail = f"{row['uri']}: {error.status}: {error}"
            if storage.is_bucket(row["uri"]) and error.status == "permission_denied":
                yield Finding("fail", "input", detail, "ask for the right to read objects there")
            else:
                yield Finding("warn", "input", detail, "its row will say so")
        except UserError as error:
            yield Finding("fail", "input", str(error), "mend that, or leave the input out")


def check_output(options: ClassifyOptions, flags: dict):
    """Whether the output can be written and read back, and there is room."""
    if not options.output:
        yield Finding("warn", "output", "no --output given", "give it, to have it looked at")
        return
    output = options.output
    if not storage.is_bucket(output):
        output = os.path.abspath(output)
        if is_remote(options, flags):
            yield Finding(
                "fail",
                "output",
                f"{output} is a path on this machine, and the workers are elsewhere",
                "write to gs://, or to a folder mounted at the same path on every worker",
            )
    probe = storage.join(output, "_imagecensus", "doctor-probe")
    created = [] if storage.is_bucket(output) else _missing_folders(os.path.dirname(probe))
    try:
        storage.make_folder(os.path.dirname(probe))
        storage.write(probe, b"probe")
        same = storage.read(probe) == b"probe"
        storage.delete(probe)
        for folder in created:
            os.rmdir(folder)
        if not same:
            yield Finding("fail", "output", f"{output}: reads other bytes than written", "ask why")
            return
    except (UserError, OSError) as error:
        yield Finding("fail", "output", str(error), "choose another --output or mend that one")
        return
    yield Finding("ok", "output", f"{output}: can be written and read")
    if not storage.is_bucket(output):
        there = output
        while not os.path.exists(there):
            there = os.path.dirname(there)
        free = shutil.disk_usage(there).free
        level = "ok" if free >= MIN_FREE_DISK else "warn"
        remedy = "" if level == "ok" else "free some space: a million rows take about 0.2 GB"
        yield Finding(level, "disk", f"{free / 2**30:.1f} GiB free", remedy)


def check_model(options: ClassifyOptions, flags: dict):
    """Whether the model loads in the engine and answers its golden pictures as recorded."""
    from transforms.classify_images import Classification, ClassifierHandler
    from transforms.engines import choose_engine

    try:
        engine = choose_engine(options.engine, options.precision)
        folder = _model_folder(options)
        loaded = ClassifierHandler(
            Classification(folder, engine, options.precision, threads=options.threads)
        ).load_model()
    except UserError as error:
        yield Finding("fail", "model", str(error), "give another --model or --engine")
        return
    text = f"{folder}: {len(loaded.labels)} labels; golden pictures answered alike by {engine}"
    yield Finding("ok", "model", text)
    if not storage.is_bucket(options.model or "") and is_remote(options, flags):
        yield Finding(
            "fail" if options.runner == DATAFLOW else "warn",
            "model",
            f"{folder} is a path on this machine, and the workers are elsewhere",
            "copy it to gs://, or put it at the same path into the workers' image",
        )


def check_runner(options: ClassifyOptions, flags: dict):
    """Whether the runner is there, of the right version, and its flags fit together."""
    checks = {
        IN_PROCESS: lambda: iter([Finding("ok", "runner", "in this process")]),
        "FlinkRunner": lambda: _check_flink(flags),
        "PrismRunner": lambda: _check_prism(flags),
        DATAFLOW: lambda: _check_dataflow(flags),
    }
    unknown = Finding("warn", "runner", f"{options.runner}: nothing known about it", "try it small")
    yield from checks.get(options.runner, lambda: iter([unknown]))()


def _check_flink(flags: dict):
    from apache_beam.version import __version__ as beam

    if not shutil.which("java"):
        yield Finding(
            "fail", "flink", "no java here", "install Java 11 or 17; the job server is a jar"
        )
    jar = flags.get("flink_job_server_jar")
    if jar and "://" not in jar:
        if not os.path.isfile(jar):
            yield Finding("fail", "flink", f"{jar}: no such job server", "run make flink-env")
        elif f"-{beam}" not in os.path.basename(jar):
            text = f"{os.path.basename(jar)} is not of Beam {beam}, which is installed here"
            yield Finding("warn", "flink", text, "use that version's where you can get it")
    master = flags.get("flink_master") or "[auto]"
    kind = flags.get("environment_type")
    if master in MAGIC_MASTERS:
        yield Finding("ok", "flink", f"{master}: Flink {flags['flink_version']} in the job server")
        return
    if kind == "LOOPBACK":
        yield Finding(
            "fail",
            "flink",
            f"--environment_type=LOOPBACK with a master at {master}: its workers would call back"
            " into this process",
            "use --environment_type=EXTERNAL with a worker pool beside each TaskManager",
        )
    elif not kind:
        text = "no --environment_type: Beam takes DOCKER, and each TaskManager must have Docker"
        remedy = "give --environment_type=EXTERNAL and --environment_config=HOST:PORT"
        yield Finding("warn", "flink", text, remedy)
    url = master if "://" in master else f"http://{master}"
    try:
        with urllib.request.urlopen(f"{url}/config", timeout=5) as answer:
            version = json.load(answer)["flink-version"]
        with urllib.request.urlopen(f"{url}/overview", timeout=5) as answer:
            overview = json.load(answer)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", error)
        yield Finding(
            "fail", "flink", f"{url}: no Flink answers: {reason}", "start it: docs/flink.md"
        )
        return
    if not version.startswith(flags["flink_version"] + "."):
        minor = ".".join(version.split(".")[:2])
        text = f"{url} runs Flink {version}, the job server would be for {flags['flink_version']}"
        yield Finding("fail", "flink", text, f"give --flink_version={minor}")
    slots, managers = overview["slots-total"], overview["taskmanagers"]
    wanted = max(int(flags.get("parallelism") or 1), 1)
    if slots < wanted:
        text = f"{url}: {managers} TaskManagers with {slots} slots, --parallelism={wanted}"
        yield Finding("fail", "flink", text, "start more TaskManagers, or lower --parallelism")
    else:
        yield Finding(
            "ok", "flink", f"{url}: Flink {version}, {managers} TaskManagers, {slots} slots"
        )


def _check_prism(flags: dict):
    from apache_beam.runners.portability.prism_runner import PrismJobServer

    location = flags.get("prism_location")
    cached = os.path.isdir(PrismJobServer.BIN_CACHE) and os.listdir(PrismJobServer.BIN_CACHE)
    if location and "://" not in location and not os.path.isfile(location):
        yield Finding("fail", "prism", f"{location}: no such binary", "run make prism")
    elif not location and not cached:
        text = f"nothing in {PrismJobServer.BIN_CACHE}: Beam will download it"
        yield Finding("warn", "prism", text, "run make prism, and give --prism_location")
    else:
        yield Finding("ok", "prism", location or PrismJobServer.BIN_CACHE)


def _check_dataflow(flags: dict):
    for name in ("project", "region"):
        if not flags.get(name):
            yield Finding("fail", "dataflow", f"no --{name}", f"give --{name}")
    if not str(flags.get("temp_location") or "").startswith("gs://"):
        yield Finding("fail", "dataflow", "no --temp_location in a bucket", "give a gs:// one")
    if not flags.get("sdk_container_image"):
        text = "no --sdk_container_image: workers install everything at every start"
        yield Finding("warn", "dataflow", text, "build docs/deploy/dataflow/Dockerfile")


def check_workers(options: ClassifyOptions, beam_args: list[str]):
    """Sends one element through the runner; its worker tells its versions as a counter's name."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = PipelineOptions([*beam_args, f"--runner={options.runner}"])
    here = _versions()
    try:
        pipeline = beam.Pipeline(options=flags)
        _ = pipeline | beam.Create([0]) | beam.Reshuffle() | beam.Map(_tell_versions)
        result = pipeline.run()
        result.wait_until_finish()
        told = {
            metric.key.metric.name
            for metric in result.metrics().query()["counters"]
            if metric.key.metric.namespace == "imagecensus.doctor"
        }
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        yield Finding(
            "fail",
            "workers",
            f"one element did not come through: {first[:200]}",
            "see that workers run, reach this machine, and have imagecensus installed",
        )
        return
    for versions in sorted(told):
        if versions == here:
            yield Finding("ok", "workers", f"{versions}, as here")
        else:
            remedy = "install the same versions on the workers: rows must not depend on the machine"
            yield Finding("fail", "workers", f"workers have {versions}; here {here}", remedy)
    if not told:
        yield Finding(
            "warn", "workers", "the runner reports no counters", "compare versions by hand"
        )


def _tell_versions(element):
    from apache_beam.metrics import Metrics

    Metrics.counter("imagecensus.doctor", _versions()).inc()
    return element


def _versions() -> str:
    import apache_beam
    import PIL

    return (
        f"imagecensus {__version__}, Python {platform.python_version()},"
        f" Beam {apache_beam.__version__}, Pillow {PIL.__version__}"
    )


def _missing_folders(folder: str) -> list[str]:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing
