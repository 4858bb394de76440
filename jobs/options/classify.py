"""What a user may choose about a run of `imagecensus classify`, and what is refused at once."""

from __future__ import annotations

import codecs
import dataclasses
import functools
import os

from imagecensus.jobs.command.options import (
    Options,
    argument,
    option,
    size_in_bytes,
    unknown_flags,
)
from imagecensus.transforms.image_ref import Limits
from imagecensus.transforms.inputs.check import as_path, check_inputs
from imagecensus.transforms.storage.locations import is_bucket, is_writable, lists_ranges
from imagecensus.transforms.storage.web.policy import WebPolicy

IN_PROCESS = "in-process"
DATAFLOW = "DataflowRunner"
FLINK = "FlinkRunner"
_MOST_SHARDS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyOptions(Options):
    """Classifies every image of the inputs into a Parquet table."""

    epilog = """\
Any other flag is passed to Beam, for example --runner=FlinkRunner --flink_master=HOST:8081.
Run the same command again to resume, and to add what is new in the inputs.

Exit codes: 0 done; 1 totals not balanced, or more failures than --max-failure-rate; 2 refused as
asked; 130 interrupted (rerun to resume).
"""

    inputs: tuple[str, ...] = argument(
        "folder, file, glob, archive (tar, zip, TFRecord, Parquet), manifest (txt, csv, tsv, jsonl,"
        " parquet), prefix or glob in a store (gs://, s3://, az://, abfss://)",
        nargs="+",
        metavar="INPUT",
    )
    output: str = option(
        None, "folder, or prefix in a store, of the dataset", "dataset", metavar="DIR"
    )
    model: str | None = option(
        None, "model folder; without it, MobileNet-V2 trained on ImageNet", "dataset", metavar="DIR"
    )
    weights: str | None = option(
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
    gps: bool = option(
        False, "add columns latitude and longitude, where images say where they were taken",
        "dataset",
    )  # fmt: skip
    accept_truncated: float = option(
        0.0,
        "take JPEGs that lack their end where this share of their rows is there, for example 0.98,"
        " and add the column `share`; 0 takes none",
        "dataset",
        metavar="SHARE",
    )
    uri_column: str = option("", "the manifests' column of locations", "dataset", metavar="NAME")
    image_column: str = option(
        "", "the column or feature of images in Parquet and TFRecords", "dataset", metavar="NAME"
    )
    pages: str = option(
        "first", "what is seen of files with several pages (PDF, TIFF, HEIC, DICOM) or frames (GIF,"
        " WebP, PNG, AVIF): the first, or all, each a row such as scan.tif#page=3", "run",
        choices=("first", "all"),
    )  # fmt: skip
    zip_encoding: str = option(
        "", "encoding of names in zips that do not say it, such as shift_jis or cp866", "dataset",
        metavar="NAME",
    )  # fmt: skip
    exclude: tuple[str, ...] = option(
        None, "leave out files and folders of this name, or path below the input; can be repeated",
        "run", action="append", metavar="GLOB",
    )  # fmt: skip
    include: tuple[str, ...] = option(
        None, "list only files, or members of archives, of this name or path; can be repeated",
        "run", action="append", metavar="GLOB",
    )  # fmt: skip
    limit: int = option(None, "stop listing after so many images", "run", type=int, metavar="N")
    shard: str = option("0/1", "do only shard I of N, by a digest of the uri", "run", metavar="I/N")
    retry_failed: bool = option(False, "redo the failed rows of the dataset", "run")
    drop_gone: bool = option(
        False, "remove the rows of images that the inputs do not have any more", "run"
    )
    relocate: tuple[str, str] = option(
        None, "the images under OLD are under NEW now: their rows go along, nothing is redone",
        "run", nargs=2, metavar=("OLD", "NEW"),
    )  # fmt: skip
    verify: str = option(
        "changed", "which finished parts are read and checked: changed ones, all, or a share"
        " (0.01) of the others too", "run", metavar="WHAT",
    )  # fmt: skip
    detach: bool = option(
        False, "leave the job running on Flink or Dataflow, and end this command", "run"
    )
    cancel: bool = option(
        False, "end the job that runs for this output, and do nothing else", "run"
    )
    table: str = option(
        "parquet",
        "delta: keep a Delta table, too, with a version for each run, in the folder `delta` of the"
        " output (needs the extra delta); reruns go on with it",
        "run",
        choices=("parquet", "delta"),
    )
    list_on_workers: bool = option(
        False, "let the workers of a runner elsewhere list the prefixes of gs:// and s3://, by a"
        " job of its own before the other: worth it from some 50 million objects on", "run",
    )  # fmt: skip
    no_report: bool = option(False, "do not write report.html", "run")
    dry_run: bool = option(False, "list and count, write nothing", "run")
    max_failure_rate: float = option(
        0.5, "exit with 1 if a larger share of the images failed", "run", metavar="SHARE"
    )
    max_pixels: int = option(178_956_970, "larger images are not decoded", "limits", metavar="N")
    max_side: int = option(
        65_535, "images with a longer side are not decoded", "limits", metavar="N"
    )
    max_bytes: str = option("1G", "larger files are not read", "limits", metavar="SIZE")
    max_members: int = option(
        10_000_000, "members of one archive at most; more are one failed row", "limits", metavar="N"
    )
    decode_seconds: int = option(60, "longest that decoding one image may take", "limits")
    decode_memory: str = option(
        "4G", "most address space of each process that decodes", "limits", metavar="SIZE"
    )
    allow_private_hosts: bool = option(
        False, "also read web addresses of this machine and its networks", "web"
    )
    ignore_robots: bool = option(
        False, "read web addresses against robots.txt and X-Robots-Tag", "web"
    )
    host_connections: int = option(
        16, "connections to one web host at a time, in each process", "web", metavar="N"
    )
    engine: str = option("auto", "auto, openvino, tensorflow or tfx-bsl", "machine", metavar="NAME")
    precision: str = option(
        "auto",
        "auto (int8 where the model carries it and its measured loss allows), f32, bf16 or int8",
        "dataset",
        metavar="NAME",
    )
    calibrate_on_archive: bool = option(
        False,
        "make an int8 version of a model that carries none, calibrated on a sample of the inputs",
        "dataset",
    )
    threads: int = option(0, "threads for decoding and inference; 0 is one per core", "machine")
    unit_images: int = option(512, "images per unit of work and part", "machine", metavar="N")
    compression: str = option("zstd", "codec of the parts", "machine", choices=["zstd", "snappy"])
    runner: str = option(
        IN_PROCESS, "in-process, or any Beam runner's name", "machine", metavar="NAME"
    )
    beam_args: tuple[str, ...] = unknown_flags()  # of which Beam is asked, see `beam_flags`

    @functools.cached_property
    def web(self) -> WebPolicy:
        return WebPolicy(
            allow_private_hosts=self.allow_private_hosts,
            ignore_robots=self.ignore_robots,
            host_connections=self.host_connections,
        )

    @functools.cached_property
    def limits(self) -> Limits:
        return Limits(
            max_pixels=self.max_pixels,
            max_side=self.max_side,
            max_bytes=size_in_bytes(self.max_bytes),
            decode_seconds=self.decode_seconds,
            decode_memory=size_in_bytes(self.decode_memory),
        )

    @functools.cached_property
    def shard_pair(self) -> tuple[int, int]:
        index, _, count = self.shard.partition("/")
        return int(index), int(count)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(map(as_path, self.inputs or ())))

    def problems(self) -> list[str]:
        problems = check_inputs(self.inputs)
        if not self.output:
            problems.append("--output is missing: the folder of the dataset")
        elif not is_writable(self.output):
            problems.append(
                f"--output={self.output}: cannot be written there; give a folder or a store"
                " (s3://, gs://, az://, abfss://)"
            )
        elif not is_bucket(self.output) and (file := _file_on_the_way(self.output)):
            problems.append(f"--output={self.output}: {file} is a file; give a folder")
        if self.runner == DATAFLOW:
            problems += _out_of_reach(self)
        positive = (
            "top_k",
            "max_pixels",
            "max_side",
            "max_members",
            "unit_images",
            "decode_seconds",
            "host_connections",
        )
        for name in positive:
            if getattr(self, name) < 1:
                problems.append(f"--{name.replace('_', '-')} must be at least 1")
        if self.limit is not None and self.limit < 1:
            problems.append("--limit must be at least 1")
        problems += _wrong_for_a_rerun(self)
        if self.list_on_workers:
            problems += _not_for_workers(self)
        if self.zip_encoding and not _is_encoding(self.zip_encoding):
            problems.append(f"--zip-encoding={self.zip_encoding}: no encoding that Python knows")
        for flag, patterns in (("exclude", self.exclude), ("include", self.include)):
            if "" in (patterns or ()):
                problems.append(f"--{flag} is empty; a variable may be unset in this shell")
        if self.threads < 0:
            problems.append("--threads must be 0 or more")
        if not 0 <= self.max_failure_rate <= 1:
            problems.append("--max-failure-rate must be within 0 and 1")
        if not 0 <= self.accept_truncated <= 1:
            problems.append("--accept-truncated must be within 0 and 1")
        if self.calibrate_on_archive and self.runner != IN_PROCESS:
            problems.append(
                "--calibrate-on-archive: works on this machine only; make the int8 version with"
                " `imagecensus quantize`, and name it with --model"
            )
        if self.calibrate_on_archive and self.precision not in ("auto", "int8"):
            problems.append(f"--calibrate-on-archive does not go with --precision={self.precision}")
        if self.model and self.weights:
            problems.append("--weights is for the default model; it does not go with --model")
        try:
            index, count = self.shard_pair
            if not 0 <= index < count <= _MOST_SHARDS:
                problems.append(
                    f"--shard={self.shard}: I must be from 0 to N-1, and N at most {_MOST_SHARDS:,}"
                )
        except ValueError:
            problems.append(f"--shard={self.shard}: write I/N, for example 0/4")
        problems += _wrong_sizes(self)
        return problems


def _wrong_sizes(options: ClassifyOptions) -> list[str]:
    problems = []
    sizes = (("--max-bytes", options.max_bytes, 0), ("--decode-memory", options.decode_memory, 512))
    for flag, size, least in sizes:
        try:
            if size_in_bytes(size) <= 0:
                raise ValueError
            if size_in_bytes(size) < least << 20:
                problems.append(f"{flag}={size}: give {least}M or more: the libraries need some")
        except ValueError:
            problems.append(f"{flag}={size}: write a number above 0, with K, M or G behind it")
    return problems


def _wrong_for_a_rerun(options: ClassifyOptions) -> list[str]:
    problems = []
    if options.relocate and not all(options.relocate):
        problems.append("--relocate: OLD and NEW must not be empty")
    for flag, given in (("--relocate", options.relocate), ("--table", options.table == "delta")):
        if given and options.shard != "0/1":
            problems.append(f"{flag} is for a run over everything; give it without --shard")
    if options.verify not in ("changed", "all") and not _is_share(options.verify):
        problems.append(f"--verify={options.verify}: give changed, all, or a share from 0 to 1")
    return problems


def _not_for_workers(options: ClassifyOptions) -> list[str]:
    problems = []
    if options.runner == IN_PROCESS:
        problems.append("--list-on-workers: there are none in this process; give a --runner")
    if not any(map(lists_ranges, options.inputs)):
        problems.append(
            "--list-on-workers: workers list prefixes of gs:// and s3:// (no directory buckets),"
            " and no input is one; give it without"
        )
    if options.limit is not None:
        problems.append("--list-on-workers lists everything; it does not go with --limit")
    return problems


def _file_on_the_way(folder: str) -> str:
    """The file that stands where a folder, or one around it, is to be; "": there is none."""
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return "" if os.path.isdir(path) else path


def _is_encoding(name: str) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except LookupError:
        return False


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _out_of_reach(options: ClassifyOptions) -> list[str]:
    """Locations that the workers of Dataflow cannot reach."""
    places = {"--output": options.output or "gs://", "--model": options.model or ""}
    return [
        f"{flag}={place}: Dataflow's workers reach no file of this machine; give a gs:// location"
        for flag, place in places.items()
        if not is_bucket(place)
    ]
