"""What the doctor can see of a run on Dataflow from here: flags, buckets, quotas.

The rights of the workers' account cannot be seen: only the user's own are tried.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from imagecensus.jobs.classification.finding import Finding
from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.storage.gcs_client import SCHEME, bucket_client, split_bucket

COMPUTE = "https://compute.googleapis.com/compute/v1"
IMAGE_PYTHON = (3, 11)  # of docs/deploy/dataflow/Dockerfile
_CHECK = "dataflow"
_DEFAULT_MACHINE = "n2-standard-4"
_SECONDS = 20
# Machine types whose processors have no quota of their own.
_COMMON_CPUS = ("n1", "e2", "f1", "g1")


def check_dataflow(options: ClassifyOptions, flags: dict[str, Any]) -> Iterator[Finding]:
    """Whether the flags fit together, and what of the project can be asked."""
    yield from _check_needed(flags)
    yield from _check_image(options, flags)
    yield from _check_machines(options, flags)
    yield from _check_account(flags)
    for bucket, uses in _buckets(options, flags).items():
        yield from _check_bucket(bucket, uses, str(flags.get("region") or ""))
    if flags.get("project") and flags.get("region"):
        yield from _check_quota(flags)


def _check_needed(flags: dict[str, Any]) -> Iterator[Finding]:
    for name in ("project", "region"):
        if not flags.get(name):
            yield Finding("fail", _CHECK, f"no --{name}", f"give --{name}")
    if not str(flags.get("temp_location") or "").startswith(SCHEME):
        yield Finding("fail", _CHECK, "no --temp_location in a bucket", "give a gs:// one")
    if not flags.get("max_num_workers"):
        text = "no --max_num_workers: as many machines as the quota gives"
        yield Finding("warn", _CHECK, text, "give it, to bound the cost")


def _check_image(options: ClassifyOptions, flags: dict[str, Any]) -> Iterator[Finding]:
    image = str(flags.get("sdk_container_image") or "")
    if not image:
        text = "no --sdk_container_image: workers install everything at every start"
        yield Finding("warn", _CHECK, text, "build docs/deploy/dataflow/Dockerfile")
        if options.engine in ("tensorflow", "tfx-bsl"):
            text = f"--engine={options.engine}: what they install then is without TensorFlow"
            yield Finding("fail", _CHECK, text, "give an image with it: docs/dataflow.md")
        return
    registry, slash, name = image.partition("/")
    if not slash or "." not in registry:
        text = f"{image}: names no registry, and workers would ask Docker Hub for it"
        remedy = "push it to one that they reach: REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG"
        yield Finding("warn", _CHECK, text, remedy)
    elif "@" not in name and (":" not in name or name.endswith(":latest")):
        text = f"{image}: has no fixed tag, so that workers of one job may differ"
        yield Finding("warn", _CHECK, text, "give it a tag of its own, or a digest")
    if sys.version_info[:2] != IMAGE_PYTHON:
        here = ".".join(map(str, sys.version_info[:2]))
        text = f"Python {here} here; the image of docs/deploy/dataflow/Dockerfile has 3.11"
        remedy = "submit with Python 3.11, or build the image with yours: Beam needs both alike"
        yield Finding("warn", _CHECK, text, remedy)


def _check_machines(options: ClassifyOptions, flags: dict[str, Any]) -> Iterator[Finding]:
    services = [str(service) for service in flags.get("dataflow_service_options") or ()]
    accelerator = next((s for s in services if s.startswith("worker_accelerator=")), "")
    if flags.get("resource_hints") and (accelerator or flags.get("flexrs_goal")):
        other = "--flexrs_goal" if flags.get("flexrs_goal") else "worker_accelerator"
        text = f"--resource_hints turns right fitting on, which excludes {other}"
        yield Finding("fail", _CHECK, text, f"leave one of the two out: {other} or the hints")
    if not accelerator:
        return
    if "install-nvidia-driver" not in accelerator:
        text = f"{accelerator}: without install-nvidia-driver workers do not see their GPU"
        yield Finding("fail", _CHECK, text, f"give {accelerator};install-nvidia-driver")
    if options.engine == "openvino":
        text = "--engine=openvino does not use the GPU that you pay for"
        yield Finding("warn", _CHECK, text, "give --engine=tensorflow (docs/gpu.md)")
    if options.precision == "auto":
        text = "--precision=auto may choose int8, which GPUs are not used for"
        yield Finding("warn", _CHECK, text, "give --precision=f32 (docs/gpu.md)")


def _check_account(flags: dict[str, Any]) -> Iterator[Finding]:
    if not flags.get("service_account_email"):
        text = "no --service_account_email: workers act as the project's default account, whose"
        text += " rights cannot be tried from here, and which has none in newer projects"
        remedy = "give one with the roles that docs/dataflow.md names"
        yield Finding("warn", _CHECK, text, remedy)
    if flags.get("use_public_ips") is False and not flags.get("subnetwork"):
        text = "--no_use_public_ips without --subnetwork: the default one must have Private Google"
        text += " Access, else workers never start"
        remedy = "give --subnetwork=regions/REGION/subnetworks/NAME of one that has"
        yield Finding("warn", _CHECK, text, remedy)


def _buckets(options: ClassifyOptions, flags: dict[str, Any]) -> dict[str, list[str]]:
    """bucket → what it is used for."""
    places = {"inputs": options.inputs or (), "--model": (options.model or "",)}
    places |= {"--output": (options.output or "",)}
    places |= {"--temp_location": (str(flags.get("temp_location") or ""),)}
    found: dict[str, list[str]] = {}
    for use, uris in places.items():
        for uri in uris:
            if uri.startswith(SCHEME) and uri != SCHEME:
                uses = found.setdefault(split_bucket(uri)[0], [])
                if use not in uses:
                    uses.append(use)
    return found


def _check_bucket(name: str, uses: list[str], region: str) -> Iterator[Finding]:
    """Whether a bucket is where the workers are, and lets what is written be replaced."""
    from google.api_core.exceptions import GoogleAPICallError

    used = f"{SCHEME}{name} ({', '.join(uses)})"
    try:
        bucket = bucket_client().get_bucket(name, timeout=_SECONDS, retry=None)
    except (GoogleAPICallError, UserError, OSError) as error:
        text = f"{used}: where it is cannot be asked: {type(error).__name__}"
        yield Finding("warn", _CHECK, text, "see that it is in the region of the workers")
        return
    place = (bucket.location or "").lower()
    if region and place and not _is_near(place, region):
        text = f"{used} is in {place}, the workers in {region}: each image crosses, and is charged"
        yield Finding("warn", _CHECK, text, f"give --region={place}, or copy the images")
    if "--output" in uses and bucket.retention_period:
        days = bucket.retention_period / 86_400
        text = f"{used} keeps each object for {days:.0f} days: the lock cannot be renewed there"
        yield Finding("fail", _CHECK, text, "choose a bucket without a retention policy")


def _is_near(place: str, region: str) -> bool:
    """Whether a bucket's location has no charge for reads from a region."""
    if place in ("us", "eu", "asia"):  # all of a continent
        return region.startswith({"eu": "europe"}.get(place, place))
    # Two regions together: nam4, eur4, asia1, or a pair that the name does not give.
    return place == region or bool(re.fullmatch(r"(nam|eur|asia)\d+|.*\+.*", place))


def _check_quota(flags: dict[str, Any]) -> Iterator[Finding]:
    """Whether the region's quotas hold the machines that were asked for."""
    region = f"{flags['project']}/regions/{flags['region']}"
    try:
        url = f"{COMPUTE}/projects/{region}"
        answer = bucket_client()._http.get(url, timeout=_SECONDS)
        answer.raise_for_status()
        quotas = {quota["metric"]: quota for quota in answer.json()["quotas"]}
    except (UserError, OSError, ValueError, KeyError) as error:
        text = f"quotas of {region} cannot be asked: {type(error).__name__}"
        yield Finding("warn", _CHECK, text, "look at them: IAM & Admin, Quotas")
        return
    machines = int(flags.get("max_num_workers") or 1)
    for metric, wanted in _wanted(flags, machines).items():
        quota = quotas.get(metric)
        if quota is None:
            continue
        free = int(quota["limit"] - quota["usage"])
        text = f"{metric}: {free:,} free in {flags['region']}, {wanted:,} wanted"
        if free >= wanted:
            yield Finding("ok", _CHECK, text)
        else:
            level = "fail" if free < wanted / machines else "warn"
            remedy = "ask for more quota, or lower --max_num_workers"
            yield Finding(level, _CHECK, f"{text}: the job gets fewer machines, or none", remedy)


def _wanted(flags: dict[str, Any], machines: int) -> dict[str, int]:
    """Quota → how much of it so many machines take."""
    kind = str(flags.get("machine_type") or _DEFAULT_MACHINE)
    family, size = kind.partition("-")[0], re.search(r"-(\d+)", kind)
    cores = machines * (int(size[1]) if size else 1)
    metric = "CPUS" if family in _COMMON_CPUS else f"{family.upper()}_CPUS"
    wanted = {metric: cores}
    if flags.get("use_public_ips") is not False:
        wanted["IN_USE_ADDRESSES"] = machines
    for service in flags.get("dataflow_service_options") or ():
        found = re.search(r"^worker_accelerator=type:nvidia-(?:tesla-)?(\w+);count:(\d+)", service)
        if found:
            wanted[f"NVIDIA_{found[1].upper()}_GPUS"] = machines * int(found[2])
    return wanted
