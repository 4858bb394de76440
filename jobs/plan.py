"""`imagecensus plan`: what a run will take, forecast from a sample measured on this machine.

The real job classifies the sample into a temporary output: a few images to warm up, then four
batches, whose differences give the uncertainty. What a run takes before its first image (start,
model) is measured separately: the forecast for ten million is not that for a hundred scaled up.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("plan")

import contextlib
import dataclasses
import io
import json
import math
import os
import random
import statistics
import tempfile
import time
from typing import Any

from imagecensus.jobs.classify import classify
from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.jobs.options.plan import PlanOptions
from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted, format_duration, format_size
from imagecensus.transforms.list_images import list_images
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.locations import AZURE, S3

# US dollars; override with --prices=FILE (the same keys).
PRICES_OF = "Google's list prices of 2025, us-central1: Dataflow batch workers, standard storage"
PRICES_OF_STORES = {
    "s3": "Amazon's list prices of 2025, us-east-1: S3 Standard; workers as Dataflow's",
    "azure": "Microsoft's list prices of 2025, East US: hot blobs, LRS; workers as Dataflow's",
}
PRICES = {
    "vcpu_hour": 0.056,
    "gib_hour": 0.003557,
    "gib_per_vcpu": 4.0,
    "read_requests_per_10k": 0.004,
    "list_requests_per_10k": 0.05,
    "write_requests_per_10k": 0.05,
    "gib_month_stored": 0.020,
    "gib_egress": 0.12,
}
_OF_STORES = {
    "s3": {"gib_month_stored": 0.023, "gib_egress": 0.09},
    "azure": {"read_requests_per_10k": 0.005, "list_requests_per_10k": 0.065,
              "write_requests_per_10k": 0.065, "gib_month_stored": 0.0208, "gib_egress": 0.087},
}  # fmt: skip
_LISTED_PER_REQUEST = 1000
_ROW_BYTES = 200  # of the table, compressed, without embeddings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What the sample showed, in seconds and bytes."""

    images: int  # listed
    listing_seconds: float
    fixed_seconds: float  # of a run, whatever its size
    seconds_per_image: float
    relative_error: float  # half of a 95 % interval of seconds_per_image
    bytes_per_image: float
    cpu_shares: dict[str, float]

    @property
    def seconds(self) -> float:
        """Of a whole run on this machine."""
        return self.listing_seconds + self.fixed_seconds + self.images * self.seconds_per_image


def main(options: PlanOptions) -> int:
    """Prints the forecast."""
    kind = _store_kind(options.inputs)
    prices = read_prices(options.prices, kind)
    source = options.prices or PRICES_OF_STORES.get(kind, PRICES_OF)
    measured = measure(options)
    print(forecast(measured, options.vcpus, options.deadline, prices))
    print(f"prices     {source}, in US dollars; check them, and give yours with --prices=FILE")
    return 0


def _store_kind(inputs: tuple[str, ...]) -> str:
    """ "s3", "azure" or "": where the first input that is in a store is."""
    place = next(filter(store.is_bucket, inputs), "")
    return "s3" if place.startswith(S3) else "azure" if place.startswith(AZURE) else ""


def read_prices(path: str, kind: str = "") -> dict[str, float]:
    """The price table of a kind of store, overridden by a JSON file. Raises UserError."""
    usual = PRICES | _OF_STORES.get(kind, {})
    if not path:
        return usual
    try:
        own = json.loads(store.read(path))
        unknown = set(own) - set(PRICES)
        if unknown:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(PRICES)}")
        return usual | {name: float(value) for name, value in own.items()}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a price table: {error}") from None


def measure(options: PlanOptions) -> Measured:
    """Lists the inputs and classifies a sample of them."""
    start = time.monotonic()
    count, uris, sizes = sample_listing(
        options.inputs, options.sample, options.seed, stop_after=options.images
    )
    listing = time.monotonic() - start
    images = max(options.images or count, count)
    if len(uris) < 20:
        raise UserError(
            f"{', '.join(options.inputs)}: {counted(len(uris), 'image')}; too few for a forecast:"
            " run classify"
        )
    batches = 4
    with tempfile.TemporaryDirectory(prefix="imagecensus-plan-") as folder:
        warm = max(len(uris) // 10, 4)
        first = _run(options, uris[:warm], folder, "warm")
        rest = uris[warm:]
        size = len(rest) // batches
        runs = [
            _run(options, rest[at * size : (at + 1) * size], folder, str(at))
            for at in range(batches)
        ]
    rates = [run["busy"] / size for run in runs]
    per_image = statistics.mean(rates)
    # Student's t for 3 degrees of freedom.
    error = 3.18 * statistics.stdev(rates) / math.sqrt(batches) / per_image
    known = [size for size in sizes if size >= 0]
    names = ("read", "decode", "infer", "write")
    stages = {name: sum(run["stages"].get(name, 0) for run in runs) for name in names}
    total = sum(stages.values()) or 1.0
    return Measured(
        images=images,
        listing_seconds=listing * images / max(count, 1),
        fixed_seconds=max(first["whole"] - first["busy"], 0.0),
        seconds_per_image=per_image,
        relative_error=error,
        bytes_per_image=statistics.mean(known) if known else 0.0,
        cpu_shares={name: seconds / total for name, seconds in stages.items()},
    )


def sample_listing(
    inputs: tuple[str, ...], size: int, seed: int, stop_after: int | None
) -> tuple[int, list[str], list[int]]:
    """Reservoir sample over the listing: (images listed, uris, sizes)."""
    rng = random.Random(seed)
    kept: list[tuple[str, int]] = []
    count = 0
    for batch in list_images(inputs):
        for row in zip(batch.column("uri").to_pylist(), batch.column("size").to_pylist()):  # noqa: B905
            count += 1
            if len(kept) < size:
                kept.append(row)
            elif (at := rng.randrange(count)) < size:
                kept[at] = row
        if stop_after and count >= stop_after:
            break
    rng.shuffle(kept)
    return count, [uri for uri, _ in kept], [size for _, size in kept]


def _run(options: PlanOptions, uris: list[str], folder: str, name: str) -> dict[str, Any]:
    """Classifies some images by the real job: wall seconds, and CPU seconds by stage."""
    manifest = os.path.join(folder, f"{name}.txt")
    with open(manifest, "w", encoding="utf-8") as file:
        file.writelines(uri + "\n" for uri in uris)
    command = ClassifyOptions(
        inputs=(manifest,), output=f"{folder}/{name}", no_report=True, max_failure_rate=1.0,
        engine=options.engine, threads=options.threads, model=options.model,
        weights=options.weights,
    )  # fmt: skip
    start = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        classify(command)
    whole = time.monotonic() - start
    with open(f"{folder}/{name}/run_report.json", encoding="utf-8") as file:
        rates = json.load(file)["rates"]
    return {
        "whole": whole,
        "busy": rates["steady_seconds"],
        "stages": rates["cpu_seconds_by_stage"],
    }


def forecast(
    measured: Measured, vcpus: int, deadline: float | None, prices: dict[str, float]
) -> str:
    """The forecast as text."""
    m = measured
    cores = usable_cores()
    low, high = (m.seconds * (1 + sign * max(m.relative_error, 0.05)) for sign in (-1, 1))
    core_seconds = m.seconds_per_image * cores
    per_million = cost_per_million(core_seconds, m.bytes_per_image, prices)
    once = (per_million["compute"] + per_million["requests"]) * m.images / 1e6
    shares = ", ".join(f"{name} {share:.0%}" for name, share in m.cpu_shares.items())
    lines = [
        f"images     {m.images:,}, {format_size(m.bytes_per_image * m.images)} to read",
        (
            f"rate       {1 / m.seconds_per_image:,.1f} images/s on this machine's"
            f" {counted(cores, 'core')} (± {m.relative_error:.0%}); CPU: {shares}"
        ),
        (
            f"time       {format_duration(m.seconds)} on this machine, between"
            f" {format_duration(low)} and {format_duration(high)}; {m.fixed_seconds:.1f} s of it to"
            f" start, {m.listing_seconds:.1f} s to list"
        ),
    ]
    if deadline:
        room = deadline * 3600 - m.listing_seconds - m.fixed_seconds
        if room <= 0:
            lines.append(f"workers    no number of workers lists and starts within {deadline:g} h")
        else:
            slow = core_seconds * (1 + m.relative_error)
            workers = math.ceil(m.images * slow / vcpus / room)
            lines.append(
                f"workers    {workers:,} of {vcpus} vCPUs to be done in {deadline:g} h, where a"
                " vCPU is as fast as a core here"
            )
    reads, writes = m.images, max(m.images // 512, 1)
    lists = m.images // _LISTED_PER_REQUEST + 1
    lines += [
        f"requests   {reads:,} reads, {lists:,} lists, {writes:,} writes, if it is in a bucket",
        f"output     about {format_size(m.images * _ROW_BYTES)}",
        "cost       per million images: "
        + ", ".join(f"{name} ${value:,.2f}" for name, value in per_million.items()),
        f"           for these, compute and requests: ${once:,.2f} (± {m.relative_error:.0%})",
    ]
    egress = 1e6 * m.bytes_per_image / 2**30 * prices["gib_egress"]
    lines.append(
        f"egress     per million images ${egress:,.2f} where workers are outside the store's cloud;"
        " none in its region"
    )
    return "\n".join(lines)


def cost_per_million(
    core_seconds: float, bytes_per_image: float, prices: dict[str, float]
) -> dict[str, float]:
    """Dollars by kind for a million images, `core_seconds` each."""
    hours = core_seconds * 1e6 / 3600
    compute = hours * (prices["vcpu_hour"] + prices["gib_per_vcpu"] * prices["gib_hour"])
    requests = (
        1e6 / 1e4 * prices["read_requests_per_10k"]
        + 1e6 / _LISTED_PER_REQUEST / 1e4 * prices["list_requests_per_10k"]
        + 1e6 / 512 / 1e4 * prices["write_requests_per_10k"]
    )
    stored = 1e6 * bytes_per_image / 2**30 * prices["gib_month_stored"]
    return {"compute": compute, "requests": requests, "a month of the images' storage": stored}
