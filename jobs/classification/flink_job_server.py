"""Beam's job server for Flink is a jar, which is code: fetched whole, and checked before it runs.

Beam itself would download it without a checksum and start over after each break.
"""

from __future__ import annotations

import os

from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions
from apache_beam.utils.subprocess_server import JavaJarServer
from apache_beam.version import __version__ as BEAM

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.fetch import digest_like, fetch

_CHECKSUMS = (".sha512", ".sha256", ".sha1")


class JarError(UserError):
    """A jar is not the one it should be. The message names it."""


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
