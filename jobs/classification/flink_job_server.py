"""Beam's job server for Flink: its jar, and the flags that only it knows.

The jar is code: it is fetched whole, and checked before it runs. Beam itself would download it
without a checksum and start over after each break.
"""

from __future__ import annotations

import os
from typing import Any

from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.utils.subprocess_server import JavaJarServer
from apache_beam.version import __version__ as BEAM

from imagecensus.jobs.classification.beam_flags import beam_flags, flags_of
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.fetch import digest_like, fetch

_CHECKSUMS = (".sha512", ".sha256", ".sha1")


class JarError(UserError):
    """A jar is not the one it should be. The message names it."""


class CheckedFlinkRunner(FlinkRunner):
    """Beam's FlinkRunner; it refuses flags that its job server does not know, too."""

    def create_job_service_handle(
        self, job_service: Any, options: PipelineOptions
    ) -> JobServiceHandle:
        if options.view_as(FlinkRunnerOptions).flink_submit_uber_jar:
            return super().create_job_service_handle(job_service, options)
        return _CheckingHandle(job_service, options)


class _CheckingHandle(JobServiceHandle):
    def get_pipeline_options(self) -> Any:
        """Beam's options for the job server. Raises UserError for a flag that nobody knows."""
        encoded = super().get_pipeline_options()
        request = beam_job_api_pb2.DescribePipelineOptionsRequest()
        described = self.job_service.DescribePipelineOptions(request, timeout=self.timeout)
        known = {*beam_flags(), *(f"--{option.name}" for option in described.options)}
        unknown = [flag for flag in flags_of(self.options._flags) if flag not in known]
        if unknown:
            raise UserError(
                f"unknown argument {', '.join(unknown)}: neither imagecensus nor Beam nor this job"
                " server of Flink has it; docs/flink.md names those that help"
            )
        return encoded


def job_server_flags(beam_args: list[str]) -> list[str]:
    """The flag that names the job server, where the user named none; what is named is checked."""
    flags = PipelineOptions(beam_args).view_as(FlinkRunnerOptions)
    if flags.flink_job_server_jar:
        check_jar(flags.flink_job_server_jar)
        return []
    return [f"--flink_job_server_jar={job_server_jar(flags.flink_version)}"]


def job_server_jar(flink_version: str, repository: str = "") -> str:
    """The job server of the installed Beam, from Beam's own cache or from Maven.

    Args:
      flink_version: like "1.19".
      repository: Maven's; empty: Maven Central.

    Raises:
      FetchError: it cannot be downloaded.
      JarError: what is in the cache is not what was downloaded.
    """
    artifact = f"beam-runners-flink-{flink_version}-job-server"
    jar: str = os.path.join(JavaJarServer.JAR_CACHE, JavaJarServer.jar_name(artifact, BEAM))
    if not os.path.isfile(jar):
        repository = repository or JavaJarServer.MAVEN_CENTRAL_REPOSITORY
        group = JavaJarServer.BEAM_GROUP_ID
        url = JavaJarServer.path_to_maven_jar(artifact, group, BEAM, repository)
        fetch(url, jar, digest=_first_word(fetch(url + ".sha1", jar + ".sha1")))
    check_jar(jar)
    return jar


def check_jar(jar: str) -> None:
    """Compares a jar with the checksum that lies beside it, if one does. Raises JarError."""
    for suffix in _CHECKSUMS:
        if os.path.isfile(jar + suffix):
            expected = _first_word(jar + suffix)
            name, actual = digest_like(jar, expected)
            if actual != expected:
                raise JarError(
                    f"{jar}: its {name} is {actual}, {expected} in {jar + suffix}; delete both"
                    " and fetch it again (make flink-env)"
                )


def _first_word(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return (file.read().split() or [""])[0].lower()
