"""The Beam options that each runner gets beside those that the user gave."""

from __future__ import annotations

import pathlib
import urllib.parse
from typing import TYPE_CHECKING, Any

from imagecensus.jobs.classification.beam_flags import OTHER_FLAGS
from imagecensus.jobs.command import process
from imagecensus.jobs.options.classify import DATAFLOW, FLINK, IN_PROCESS, ClassifyOptions
from imagecensus.model_export.common.errors import UserError

if TYPE_CHECKING:  # Beam is imported where it is used: a command may not need it
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineRunner

MAGIC_MASTERS = ("[local]", "[auto]")

# One process a machine, one unit at a time in it: its threads keep every core busy with one copy
# of the model. Beam's own default is a process for each core, each with all those threads.
_ONE_PROCESS = "no_use_multiple_sdk_containers"
# Option of Beam: what a run on Dataflow gets where the user gives none. No resource hint: hints
# exclude FlexRS and the service option `worker_accelerator`.
_DATAFLOW_DEFAULTS = {
    "number_of_worker_harness_threads": "1",
    "machine_type": "n2-standard-4",
    "autoscaling_algorithm": "THROUGHPUT_BASED",
}
_PACKAGE_BRINGERS = ("sdk_container_image", "setup_file", "extra_packages", "requirements_file")


def beam_runner(options: ClassifyOptions) -> tuple[PipelineRunner | str, PipelineOptions]:
    """The runner and Beam's options."""
    from apache_beam.options.pipeline_options import PipelineOptions

    beam_args = list(options.beam_args)
    if options.runner == IN_PROCESS:
        from apache_beam.runners.portability.fn_api_runner import fn_runner

        return fn_runner.FnApiRunner(), PipelineOptions(beam_args)
    process.server_beside = True
    # The package is installed on workers; a pickle of this process would bring what it must not.
    fixed = [f"--runner={options.runner}", "--no_save_main_session"]
    if options.runner == DATAFLOW:
        fixed += dataflow_defaults(beam_args)
    if options.runner == FLINK:
        from imagecensus.jobs.classification.flink_job_server import (
            CheckedFlinkRunner,
            job_server_flags,
        )

        fixed += job_server_flags(beam_args)
        return CheckedFlinkRunner(), PipelineOptions([*beam_args, *fixed])
    return options.runner, PipelineOptions([*beam_args, *fixed])


def dataflow_defaults(beam_args: list[str]) -> list[str]:
    """Flags that make the job run well on Dataflow, but for those that the user gave.

    Raises UserError: nothing brings this package to the workers.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    given = PipelineOptions(beam_args).get_all_options(drop_default=True)
    flags = [f"--{name}={value}" for name, value in _DATAFLOW_DEFAULTS.items() if name not in given]
    if "use_multiple_sdk_containers" not in given.get("experiments", ()):
        flags.append(f"--experiments={_ONE_PROCESS}")
    if not any(given.get(name) for name in _PACKAGE_BRINGERS):
        setup = pathlib.Path(__file__).parents[2] / "setup.py"
        if not setup.is_file():
            raise UserError(
                "--runner=DataflowRunner: nothing brings this package to the workers; give"
                " --sdk_container_image=IMAGE (docs/dataflow.md), or its source package as"
                " --extra_package=FILE"
            )
        flags.append(f"--setup_file={setup}")
    return flags


def template_location(options: ClassifyOptions, beam_options: PipelineOptions) -> str:
    """Where a pipeline for Dataflow is only written to, for a launcher to start; "" elsewhere."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    if options.runner != DATAFLOW:
        return ""
    return beam_options.view_as(GoogleCloudOptions).template_location or ""


def works_here(options: ClassifyOptions, beam_options: PipelineOptions) -> bool:
    """Whether threads of this process do the work, so that they can be asked to stop here."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions

    if beam_options.view_as(PortableOptions).environment_type == "LOOPBACK":
        return True
    if options.runner == FLINK:
        return beam_options.view_as(FlinkRunnerOptions).flink_master in MAGIC_MASTERS
    return options.runner not in (DATAFLOW, *OTHER_FLAGS)


def is_remote(options: ClassifyOptions, flags: dict[str, Any]) -> bool:
    """Whether workers run on other machines than this one. `flags` are Beam's options."""
    if options.runner == DATAFLOW:
        return True
    if options.runner != FLINK:
        return False
    master = flags.get("flink_master") or "[auto]"
    if master in MAGIC_MASTERS:
        return False
    url = urllib.parse.urlsplit(master if "://" in master else f"http://{master}")
    return url.hostname not in ("localhost", "127.0.0.1", "::1")
