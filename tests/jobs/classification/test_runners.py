"""What the job says to runners of its own accord, and that the user's word stands."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from imagecensus.jobs.classification import runners
from imagecensus.jobs.classification.beam_flags import validate_beam
from imagecensus.jobs.options.classify import ClassifyOptions
from imagecensus.model_export.common.errors import UserError

IMAGE = "--sdk_container_image=workers:1"


def defaults(*given) -> dict[str, str]:
    flags = runners.dataflow_defaults(list(given))
    return dict(flag.removeprefix("--").split("=", 1) for flag in flags)


def test_defaults_of_dataflow_give_way():
    everything = defaults(IMAGE)
    assert everything["experiments"] == "no_use_multiple_sdk_containers"
    assert everything["number_of_worker_harness_threads"] == "1"
    assert "resource_hints" not in everything, "a hint excludes FlexRS and worker_accelerator"
    given = ["--worker_machine_type=e2-highcpu-8", "--resource_hints=accelerator=type:t4;count:1"]
    given += ["--autoscaling_algorithm=NONE", "--experiments=use_multiple_sdk_containers"]
    assert defaults(IMAGE, *given) == {"number_of_worker_harness_threads": "1"}


@pytest.mark.parametrize(
    "flag", [IMAGE, "--setup_file=./setup.py", "--extra_package=a.tar.gz", "--requirements_file=r"]
)
def test_a_checkout_is_staged_unless_something_else_brings_the_package(flag):
    assert defaults()["setup_file"].endswith("/setup.py")
    assert "setup_file" not in defaults(flag)


def test_an_installed_package_cannot_be_staged(monkeypatch, tmp_path):
    monkeypatch.setattr(
        runners, "__file__", str(tmp_path / "jobs" / "classification" / "runners.py")
    )
    with pytest.raises(UserError, match="--sdk_container_image"):
        runners.dataflow_defaults([])


@pytest.mark.parametrize(
    "runner, master, remote",
    [
        ("in-process", None, False),
        ("PrismRunner", None, False),
        ("DataflowRunner", None, True),
        ("FlinkRunner", None, False),
        ("FlinkRunner", "[local]", False),
        ("FlinkRunner", "localhost:8081", False),
        ("FlinkRunner", "http://127.0.0.1:8081", False),
        ("FlinkRunner", "[::1]:8081", False),
        ("FlinkRunner", "flink-jobmanager:8081", True),
        ("FlinkRunner", "https://flink.example", True),
    ],
)
def test_which_workers_are_elsewhere(runner, master, remote):
    options = dataclasses.replace(ClassifyOptions(), inputs=(), runner=runner)
    assert runners.is_remote(options, {"flink_master": master}) == remote


@pytest.mark.parametrize(
    "runner, flag, hint",
    [
        ("in-process", "--object_reuse", "unknown argument --object_reuse"),
        ("DataflowRunner", "--object_reuse", "unknown argument --object_reuse"),
        ("FlinkRunner", "--paralelism=2", "did you mean --parallelism"),
        ("FlinkRunner", "--unit-image=2", "did you mean --unit-images"),
    ],
)
def test_slips_in_flags_are_refused(runner, flag, hint):
    with pytest.raises(UserError, match=hint):
        validate_beam([flag], runner)


@pytest.mark.parametrize(
    "words, refused",
    [
        (["--region=r", "more"], True),
        (["--streaming", "more"], True),  # takes no value
        (["more"], True),
        (["--region", "r", "more"], True),
        (["--region", "r"], False),
        (["--flink_submit_uber_jar", "--flink_master", "host:8081"], False),
    ],
)
def test_an_input_behind_flags_of_beam_is_not_forgotten(words, refused):
    with pytest.raises(UserError, match="more: not understood") if refused else nullcontext():
        validate_beam(words, "FlinkRunner")


@pytest.mark.parametrize(
    "runner, hint",
    [
        ("Nope", r"--runner=Nope: Beam has no such runner; choose one of .*PrismRunner"),
        ("flinkrunner", r"did you mean FlinkRunner\?"),
        ("DirectRuner", r"did you mean DirectRunner\?"),
    ],
)
def test_a_runner_that_beam_lacks_is_refused(runner, hint):
    with pytest.raises(UserError, match=hint):
        validate_beam([], runner)
    validate_beam([], "some.module.Runner")


def test_flags_that_only_a_job_server_knows_pass():
    for flag in (
        "--execution_mode_for_batch=BATCH_FORCED", "--max_bundle_size=10", "--object_reuse",
        "--number_of_execution_retries=3", "--environment_expiration_millis=60000",
    ):  # fmt: skip
        validate_beam([flag], "FlinkRunner")


@pytest.mark.parametrize(
    "runner, flags, here",
    [
        ("in-process", [], True),
        ("PrismRunner", [], True),
        ("FlinkRunner", [], True),
        ("FlinkRunner", ["--flink_master=jobmanager:8081"], False),
        ("FlinkRunner", ["--flink_master=localhost:8081", "--environment_type=LOOPBACK"], True),
        ("DataflowRunner", [], False),
        ("PortableRunner", ["--job_endpoint=localhost:8099"], False),
        ("PortableRunner", ["--environment_type=LOOPBACK"], True),
        ("SparkRunner", [], False),
    ],
)
def test_which_workers_stop_with_this_process(runner, flags, here):
    options = dataclasses.replace(ClassifyOptions(), inputs=(), runner=runner)
    assert runners.works_here(options, PipelineOptions(flags)) == here
