"""What the doctor asks of a runner: is it there, does it fit, do its workers work?"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from imagecensus.jobs.classification.dataflow_checks import check_dataflow
from imagecensus.jobs.classification.finding import Finding
from imagecensus.jobs.classification.runners import MAGIC_MASTERS, beam_runner
from imagecensus.jobs.options.classify import DATAFLOW, FLINK, IN_PROCESS, ClassifyOptions
from imagecensus.model_export.common.errors import UserError, first_line
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.common.version import __version__
from imagecensus.transforms.storage import store


def check_runner(options: ClassifyOptions, flags: dict[str, Any]) -> Iterator[Finding]:
    """Whether the runner is there, of the right version, and its flags fit together."""
    if options.runner == IN_PROCESS:
        yield Finding("ok", "runner", "in this process")
    elif options.runner == FLINK:
        yield from _check_flink(options, flags)
    elif options.runner == "PrismRunner":
        yield from _check_prism(flags)
    elif options.runner == DATAFLOW:
        yield from check_dataflow(options, flags)
    else:
        text = f"{options.runner}: nothing known about it"
        yield Finding("warn", "runner", text, "try it small")


def _check_flink(options: ClassifyOptions, flags: dict[str, Any]) -> Iterator[Finding]:
    if not shutil.which("java"):
        yield Finding(
            "fail", "flink", "no java here", "install Java 11 or 17; the job server is a jar"
        )
    yield from _check_flink_jar(flags.get("flink_job_server_jar"))
    master = flags.get("flink_master") or "[auto]"
    if master in MAGIC_MASTERS:
        yield Finding("ok", "flink", f"{master}: Flink {flags['flink_version']} in the job server")
        return
    kind = flags.get("environment_type")
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
    yield from _check_flink_cluster(url, flags)
    yield from _check_behind_port(options, url)


def _check_flink_jar(jar: str | None) -> Iterator[Finding]:
    """Whether a job server that was named is there and of this Beam."""
    from apache_beam.version import __version__ as beam

    if not jar or "://" in jar:
        return
    if not os.path.isfile(jar):
        yield Finding("fail", "flink", f"{jar}: no such job server", "run make flink-env")
    elif f"-{beam}" not in os.path.basename(os.path.realpath(jar)):
        text = f"{os.path.basename(jar)} is not of Beam {beam}, which is installed here"
        yield Finding("warn", "flink", text, "use that version's where you can get it")


def _check_flink_cluster(url: str, flags: dict[str, Any]) -> Iterator[Finding]:
    """Whether a Flink answers, of the version asked for, with enough slots."""
    try:
        with urllib.request.urlopen(f"{url}/config", timeout=5) as answer:
            version = json.load(answer)["flink-version"]
        with urllib.request.urlopen(f"{url}/overview", timeout=5) as answer:
            overview = json.load(answer)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", error)
        text = f"{url}: no Flink answers: {reason}"
        yield Finding("fail", "flink", text, "start it: docs/flink.md")
        return
    if not version.startswith(flags["flink_version"] + "."):
        minor = ".".join(version.split(".")[:2])
        text = f"{url} runs Flink {version}, the job server would be for {flags['flink_version']}"
        yield Finding("fail", "flink", text, f"give --flink_version={minor}")
    yield _check_slots(url, version, overview, flags)
    settings = {entry["key"]: entry["value"] for entry in _ask(f"{url}/jobmanager/config") or ()}
    if settings and settings.get("restart-strategy.type", "none") in ("none", "off", "disable"):
        text = f"{url}: no restart-strategy: the first machine that is lost ends the job"
        remedy = "set restart-strategy.type: fixed-delay, as docs/deploy/kubernetes/flink.yaml does"
        yield Finding("warn", "flink", text, remedy)


def _check_behind_port(options: ClassifyOptions, url: str) -> Iterator[Finding]:
    """Whether TaskManagers behind an address of this machine are on other machines."""
    host = urllib.parse.urlsplit(url).hostname or ""
    managers = (_ask(f"{url}/taskmanagers") or {}).get("taskmanagers", ())
    paths = [str(manager.get("path", "")) for manager in managers]
    elsewhere = [path for path in paths if "@" in path and not _is_here(_host_of(path))]
    places = {"--output": options.output, "--model": options.model}
    local = [f"{name}={at}" for name, at in places.items() if at and not store.is_bucket(at)]
    if elsewhere and local and _is_here(host):
        text = f"{url} is forwarded: a TaskManager is at {_host_of(elsewhere[0])}, and"
        text += f" {', '.join(local)} is a path on this machine"
        remedy = "use a store (gs://, s3://, az://), or a folder mounted at one path everywhere"
        yield Finding("fail", "flink", text, remedy)


def _host_of(path: str) -> str:
    """The host of an actor's address, as `pekko.tcp://flink@10.0.0.3:6122/user/rpc/…`."""
    return path.partition("@")[2].partition("/")[0].rpartition(":")[0]


def _is_here(host: str) -> bool:
    """Whether a host is this machine: an address that can be listened at."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _ask(url: str) -> Any:
    """An answer of Flink's REST endpoint; None without one."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _check_slots(
    url: str, version: str, overview: dict[str, Any], flags: dict[str, Any]
) -> Finding:
    """Whether there are slots for all bundles, or bundles may follow one another in waves."""
    slots, managers = overview["slots-total"], overview["taskmanagers"]
    wanted = max(int(flags.get("parallelism") or 1), 1)
    text = f"{url}: Flink {version}, {counted(managers, 'TaskManager')}, {counted(slots, 'slot')}"
    if slots >= wanted:
        return Finding("ok", "flink", text)
    text += f", --parallelism={wanted}"
    if flags.get("execution_mode_for_batch") != "BATCH_FORCED":
        remedy = "start more TaskManagers, or lower --parallelism, or let bundles follow one"
        remedy += " another: --execution_mode_for_batch=BATCH_FORCED"
        return Finding("fail", "flink", text, remedy)
    return Finding("ok", "flink", f"{text}: in waves")


def _check_prism(flags: dict[str, Any]) -> Iterator[Finding]:
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


def check_workers(options: ClassifyOptions) -> Iterator[Finding]:
    """Sends one element through the runner; its worker reports its versions as a counter's name."""
    import apache_beam as beam

    here = versions_here()
    try:
        runner, flags = beam_runner(options)
        pipeline = beam.Pipeline(runner=runner, options=flags)
        _ = pipeline | beam.Create([0]) | beam.Reshuffle() | beam.Map(_count_versions)
        result = pipeline.run()
        result.wait_until_finish()
        found = {
            metric.key.metric.name
            for metric in result.metrics().query()["counters"]
            if metric.key.metric.namespace == "imagecensus.doctor"
        }
    except UserError as error:
        yield Finding("fail", "workers", str(error), "give other arguments, or fetch it anew")
        return
    except Exception as error:
        yield Finding(
            "fail",
            "workers",
            f"one element did not come through: {first_line(error)[:200]}",
            "see that workers run, reach this machine, and have imagecensus installed",
        )
        return
    for versions in sorted(found):
        if versions == here:
            yield Finding("ok", "workers", f"{versions}, as here")
        else:
            remedy = "install the same versions on the workers: rows must not depend on the machine"
            yield Finding("fail", "workers", f"workers have {versions}; here {here}", remedy)
    if not found:
        yield Finding(
            "warn", "workers", "the runner reports no counters", "compare versions by hand"
        )


def _count_versions(element: int) -> int:
    from apache_beam.metrics import Metrics

    Metrics.counter("imagecensus.doctor", versions_here()).inc()
    return element


def versions_here() -> str:
    """What rows could depend on, of this process."""
    import apache_beam
    import PIL

    return (
        f"imagecensus {__version__}, Python {platform.python_version()},"
        f" Beam {apache_beam.__version__}, Pillow {PIL.__version__}"
    )
