"""`imagecensus doctor`: looks before a run spends anything. Takes the arguments of `classify`.

Each finding says what was looked at, what is wrong and what to do. The checks are plain functions
from options to findings; the last one sends one element through the runner, so that the versions
it compares are those of the workers.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("doctor")

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

from imagecensus.jobs.classification.beam_flags import validate_beam
from imagecensus.jobs.classification.finding import Finding
from imagecensus.jobs.classification.runner_checks import check_runner, check_workers, versions_here
from imagecensus.jobs.classification.runners import is_remote
from imagecensus.jobs.classify import _model_folder
from imagecensus.jobs.options.classify import DATAFLOW, IN_PROCESS, ClassifyOptions
from imagecensus.jobs.options.doctor import DoctorOptions
from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted, format_size
from imagecensus.model_export.contract import CONTRACT_FILE, EXTRA, read_contract
from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.safety import check_graph
from imagecensus.transforms.engines.classify_batch import ClassificationConfig, load_classifier
from imagecensus.transforms.engines.precision import choose_precision
from imagecensus.transforms.engines.registry import EngineError, choose_engine, match_engine
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.locations import AZURE, GOOGLE, S3
from imagecensus.transforms.storage.lock import check_conditional_writes

MIN_FREE_DISK = 2 << 30
_STORES = {scheme[:-3]: "google" for scheme in GOOGLE}
_STORES["hf"] = "hub"
_STORES |= {scheme[:-3]: "s3" for scheme in S3} | {scheme[:-3]: "azure" for scheme in AZURE}


def main(options: DoctorOptions) -> int:
    """Prints the findings; 1 where one of them would stop or spoil a run."""
    validate_beam(options.beam_args, options.runner)
    failed = False
    for finding in examine(options):
        print(f"{finding.level:<5} {finding.check:<8} {finding.detail}", flush=True)
        if finding.remedy:
            print(f"{'':14} -> {finding.remedy}", flush=True)
        failed |= finding.level == "fail"
    return int(failed)


def examine(options: ClassifyOptions) -> Iterator[Finding]:
    """Yields the findings, cheap checks first; workers are asked when all else is well."""
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = PipelineOptions(list(options.beam_args)).get_all_options(retain_unknown_options=True)
    options = take_model_folder(options)
    options.web.apply()
    bad = False
    for findings in (
        check_machine(options),
        check_credentials(options),
        check_inputs(options),
        check_output(options, flags),
        check_model(options, flags),
        check_runner(options, flags),
    ):
        for finding in findings:
            bad |= finding.level == "fail"
            yield finding
    if options.runner not in (IN_PROCESS, DATAFLOW) and not bad:
        yield from check_workers(options)


def take_model_folder(options: ClassifyOptions) -> ClassifyOptions:
    """The options with a model folder among the inputs as the model, where none was named."""
    folder = None if options.model else next(filter(_is_model_folder, options.inputs), None)
    if folder is None:
        return options
    inputs = tuple(text for text in options.inputs if text != folder)
    return dataclasses.replace(options, inputs=inputs, model=folder)


def _is_model_folder(text: str) -> bool:
    try:
        return store.exists(store.join(text, EXTRA, CONTRACT_FILE))
    except (UserError, OSError, ValueError):  # what it is instead, the other checks say
        return False


def check_machine(options: ClassifyOptions) -> Iterator[Finding]:
    """Versions, memory and disk of this machine."""
    yield Finding("ok", "versions", f"{versions_here()}, here")
    free = _free_memory()
    if free is not None:
        # Measured: 0.7 GB for the process with MobileNet-V2; images being decoded on top.
        threads = options.threads or usable_cores()
        need = (700 << 20) + threads * (200 << 20)
        level = "ok" if free >= need else "warn"
        remedy = "" if level == "ok" else "use fewer --threads, or a smaller --max-pixels"
        text = f"{format_size(free)} free, about {format_size(need)} needed"
        yield Finding(level, "memory", f"{text} with {counted(threads, 'thread')}", remedy)


def _free_memory() -> int | None:
    """Bytes that processes may take without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            found = re.search(r"MemAvailable:\s+(\d+)", file.read())
    except OSError:
        return None
    return int(found[1]) << 10 if found else None


def check_credentials(options: ClassifyOptions) -> Iterator[Finding]:
    """Whether the stores that are to be used can be asked, and Google where Dataflow is."""
    places = [*options.inputs, options.output or "", options.model or ""]
    asked = {store.split(place)[0]: place for place in places if store.is_bucket(place)}
    if options.runner == DATAFLOW:
        asked.setdefault("gs://", "gs://-/")
    said = set()
    for place in asked.values():
        name = _STORES[place.partition("://")[0]]
        try:
            finding = Finding("ok", name, store.check(place))
        except UserError as error:
            finding = _failed(name, error)
        if finding not in said:
            said.add(finding)
            yield finding


def check_inputs(options: ClassifyOptions) -> Iterator[Finding]:
    """Whether something is listed, and the first image can be read."""
    for text in options.inputs:
        try:
            first = next(list_images((text,), options.uri_column, options.image_column), None)
            if first is None or not first.num_rows:
                yield Finding("fail", "input", f"{text}: no images there", "check the path")
                continue
            row = first.slice(0, 1).to_pylist()[0]
            if row["container"] is None:
                read_image(ImageRef.of(row))
            yield Finding("ok", "input", f"{text}: listed, {row['uri']} can be read")
        except ImageError as error:
            detail = f"{row['uri']}: {error.status}: {error}"
            if store.is_bucket(row["uri"]) and error.status == "permission_denied":
                yield Finding("fail", "input", detail, "ask for the right to read objects there")
            else:
                yield Finding("warn", "input", detail, "its row will say so")
        except UserError as error:
            yield _failed("input", error, "fix that, or leave the input out")


def check_output(options: ClassifyOptions, flags: dict[str, Any]) -> Iterator[Finding]:
    """Whether the output can be written and read back, and there is room."""
    if not options.output:
        if options.model and not options.inputs:
            return  # a model alone is to be looked at
        yield Finding("warn", "output", "no --output given", "give it, to have it looked at")
        return
    output = options.output
    if not store.is_bucket(output):
        output = os.path.abspath(output)
        if is_remote(options, flags):
            yield Finding(
                "fail",
                "output",
                f"{output} is a path on this machine, and the workers are elsewhere",
                "write to a store (as s3://), or to a folder mounted at one path on every worker",
            )
    probe = store.join(output, "_imagecensus", "doctor-probe")
    created = [] if store.is_bucket(output) else _missing_folders(os.path.dirname(probe))
    try:
        store.make_folders(os.path.dirname(probe))
        if store.is_bucket(output):
            check_conditional_writes(os.path.dirname(probe))
        store.write(probe, b"probe")
        same = store.read(probe) == b"probe"
        store.delete(probe)
        for folder in created:
            os.rmdir(folder)
        if not same:
            yield Finding(
                "fail",
                "output",
                f"{output}: reads other bytes than written",
                "check its disk, or choose another --output",
            )
            return
    except (UserError, OSError) as error:
        yield _failed("output", error, "choose another --output, or fix that one")
        return
    yield Finding("ok", "output", f"{output}: can be written and read")
    if not store.is_bucket(output):
        there = output
        while not os.path.exists(there):
            there = os.path.dirname(there)
        free = shutil.disk_usage(there).free
        level = "ok" if free >= MIN_FREE_DISK else "warn"
        remedy = "" if level == "ok" else "free some space: a million rows take about 0.2 GB"
        yield Finding(level, "disk", f"{format_size(free)} free", remedy)


def check_model(options: ClassifyOptions, flags: dict[str, Any]) -> Iterator[Finding]:
    """Whether the model loads in the engine and answers its golden images as recorded."""
    asked, here = (options.engine, options.precision, options.embeddings), True
    try:
        choose_engine(*asked, here=False)
        try:
            engine = choose_engine(*asked)
        except EngineError:
            if options.runner == IN_PROCESS:
                raise
            here, engine = False, options.engine
        folder = _model_folder(options, "")
        engine = match_engine(engine, options.engine, folder)
        if not options.trust_model:
            check_graph(folder)
        contract = read_contract(folder)
        precision = choose_precision(
            options.precision, engine, folder, contract, here=options.runner == IN_PROCESS
        ).precision
        if not here:
            text = f"{folder}: not loaded, as --engine={engine} is not installed here"
            remedy = "look at the first report: workers check the golden images before any image"
            yield Finding("warn", "model", text, remedy)
            return
        config = ClassificationConfig(
            model=folder,
            engine=engine,
            precision=precision,
            threads=options.threads,
            digest=options.model_digest,
        )
        loaded = load_classifier(config)
    except UserError as error:
        yield _failed("model", error, "give another --model or --engine")
        return
    text = f"{folder}: {counted(len(loaded.labels), 'label')}; golden images answered alike by"
    text += f" {loaded.name} in {precision}"
    yield Finding("ok", "model", text)
    if not store.is_bucket(options.model or "") and is_remote(options, flags):
        yield Finding(
            "fail" if options.runner == DATAFLOW else "warn",
            "model",
            f"{folder} is a path on this machine, and the workers are elsewhere",
            "copy it to a store (gs://, s3://, az://), or into the workers' image at that path",
        )


def _failed(check: str, error: Exception, remedy: str = "") -> Finding:
    """What an error says, with its own remedy where it names one."""
    text, _, own = str(error).partition("; ")
    return Finding("fail", check, text, own or remedy)


def _missing_folders(folder: str) -> list[str]:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing
