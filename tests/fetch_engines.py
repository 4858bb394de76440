"""Brings what the engine tests run against into the user's caches; run by `make engines`.

  python tests/fetch_engines.py flink     Beam's Flink job server (Maven) and Flink (PyPI)
  python tests/fetch_engines.py prism     Prism, from Beam's Go module
  python tests/fetch_engines.py bucket    fake-gcs-server, a bucket emulator, from its Go module
  python tests/fetch_engines.py s3        versitygw, which speaks as S3 does, from its Go module
  python tests/fetch_engines.py azure     Azurite, an emulator of Azure's storage, from npm
  python tests/fetch_engines.py delta     DuckDB with its extension that reads Delta, from PyPI

Each does nothing where its part is there already, and says what is missing (Java, Maven, Go, a
network) and exits 0 where it cannot be had: the tests that need it skip with that reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

from apache_beam.options.pipeline_options import FlinkRunnerOptions
from apache_beam.runners.portability.prism_runner import PrismJobServer
from apache_beam.utils.subprocess_server import JavaJarServer
from apache_beam.version import __version__ as BEAM

ROOT = pathlib.Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy" / "flink"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "imagecensus"

FLINK = "1.19.3"
FLINK_MINOR = FLINK.rsplit(".", 1)[0]
_SECONDS = 1800  # for one download, at most
ASSEMBLED_BEAM = "2.70.0"  # of docs/deploy/flink/pom.xml
FLINK_HOME = CACHE / f"flink-{FLINK}"
PRISM = pathlib.Path(PrismJobServer.BIN_CACHE) / "prism"
FAKE_GCS_VERSION = "v1.56.1"
FAKE_GCS = CACHE / f"fake-gcs-server-{FAKE_GCS_VERSION}" / "fake-gcs-server"
VERSITY_VERSION = "v1.8.0"
VERSITY = CACHE / f"versitygw-{VERSITY_VERSION}" / "versitygw"
AZURITE_VERSION = "3.37.0"
AZURITE_HOME = CACHE / f"azurite-{AZURITE_VERSION}"
AZURITE = AZURITE_HOME / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
# An extension fits one version of DuckDB; this is the newest that PyPI has it of.
DUCKDB_DELTA_VERSION = "1.5.5"
DUCKDB_DELTA = CACHE / f"duckdb-delta-{DUCKDB_DELTA_VERSION}-{sys.implementation.cache_tag}"

assert FLINK_MINOR in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS


class Missing(Exception):
    """A part cannot be had here; the message says why."""


def job_server_jar() -> pathlib.Path | None:
    """The job server in Beam's own cache: the published one, else the assembled one."""
    for beam in (BEAM, ASSEMBLED_BEAM):
        jar = _jar(beam)
        if jar.is_file():
            return jar
    return None


def verify_jar(jar: pathlib.Path) -> None:
    """Raises Missing where the jar is not the one that was fetched."""
    kept = pathlib.Path(f"{jar}.sha256").read_text().split()[0]
    with open(jar, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != kept:
            raise Missing(f"{jar}: differs from its checksum; delete it and run make flink-env")


def fetch_flink() -> str:
    _need("java", "mvn")
    # The published one is asked for again and again: it may have become available.
    jar = _jar(BEAM) if _jar(BEAM).is_file() else _fetch_job_server()
    if not (FLINK_HOME / "lib").is_dir():
        _fetch_flink_libraries()
    return f"Flink {FLINK} in {FLINK_HOME}, job server {jar}"


def fetch_prism() -> str:
    if not PRISM.is_file():
        _go_install(f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}", PRISM.parent)
    return f"Prism {PRISM}"


def fetch_bucket() -> str:
    if not FAKE_GCS.is_file():
        _go_install(f"github.com/fsouza/fake-gcs-server@{FAKE_GCS_VERSION}", FAKE_GCS.parent)
    return f"bucket emulator {FAKE_GCS}"


def fetch_s3() -> str:
    if not VERSITY.is_file():
        package = f"github.com/versity/versitygw/cmd/versitygw@{VERSITY_VERSION}"
        _go_install(package, VERSITY.parent)
    return f"S3 emulator {VERSITY}"


def fetch_azure() -> str:
    if not AZURITE.is_file():
        _need("node", "npm")
        _run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix",
             str(AZURITE_HOME), f"azurite@{AZURITE_VERSION}"]
        )  # fmt: skip
    return f"Azure emulator {AZURITE}"


def fetch_delta() -> str:
    if not DUCKDB_DELTA.is_dir():
        partial = DUCKDB_DELTA.with_name(DUCKDB_DELTA.name + ".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        packages = [
            f"{name}=={DUCKDB_DELTA_VERSION}" for name in ("duckdb", "duckdb-extension-delta")
        ]
        _run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
             "--only-binary=:all:", "--target", str(partial), *packages]
        )  # fmt: skip
        partial.rename(DUCKDB_DELTA)
    return f"DuckDB with its extension for Delta {DUCKDB_DELTA}"


def _jar(beam: str) -> pathlib.Path:
    artifact = f"beam-runners-flink-{FLINK_MINOR}-job-server"
    return pathlib.Path(JavaJarServer.JAR_CACHE) / JavaJarServer.jar_name(artifact, beam)


def _fetch_job_server() -> pathlib.Path:
    """By Maven, which checks the repository's checksums (`--strict-checksums`)."""
    with tempfile.TemporaryDirectory() as folder:
        maven = ["mvn", "--quiet", "--batch-mode", "--strict-checksums"]
        published = _jar(BEAM)
        artifact = f"{JavaJarServer.BEAM_GROUP_ID}:{published.stem.removesuffix('-' + BEAM)}:{BEAM}"
        copy = [*maven, "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
                f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]  # fmt: skip
        assembled = job_server_jar()
        seconds = 60 if assembled else _SECONDS
        with contextlib.suppress(subprocess.TimeoutExpired):
            got = subprocess.run(copy, cwd=folder, capture_output=True, text=True, timeout=seconds)
            if got.returncode == 0:
                return _keep(pathlib.Path(folder) / published.name, published)
        if assembled:
            return assembled
        print(f"{artifact} cannot be had; assembling Beam {ASSEMBLED_BEAM}'s from its libraries")
        shutil.copy(DEPLOY / "pom.xml", folder)
        _run([*maven, "package"], cwd=folder)
        jar = _jar(ASSEMBLED_BEAM)
        return _keep(pathlib.Path(folder) / "target" / jar.name, jar)


def _keep(found: pathlib.Path, jar: pathlib.Path) -> pathlib.Path:
    """Moves a jar into the cache, its checksum beside it."""
    jar.parent.mkdir(parents=True, exist_ok=True)
    with open(found, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    pathlib.Path(f"{jar}.sha256").write_text(f"{digest}  {jar.name}\n")
    partial = jar.with_suffix(".tmp")
    shutil.move(found, partial)
    partial.rename(jar)
    return jar


def _fetch_flink_libraries() -> None:
    """Flink's jars out of the hash-pinned source package; 30 of its 230 MB are not needed."""
    with tempfile.TemporaryDirectory() as folder:
        _run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
             "--no-build-isolation", "--dest", folder, "-r", str(DEPLOY / "requirements.txt")]
        )  # fmt: skip
        archive = next(pathlib.Path(folder).glob("apache*flink*libraries-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        deps = next(pathlib.Path(folder).glob("*/deps"))
        partial = FLINK_HOME.with_suffix(".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "lib").mkdir(parents=True)
        for jar in [*deps.glob("lib/flink-dist-*"), *deps.glob("lib/log4j-*"), *deps.glob("bin/*")]:
            shutil.move(jar, partial / "lib" / jar.name)
        partial.rename(FLINK_HOME)


def _go_install(package: str, folder: pathlib.Path) -> None:
    _need("go")
    _run(["go", "install", package], env={**os.environ, "GOBIN": str(folder)})


def _need(*commands: str) -> None:
    for command in commands:
        if not shutil.which(command):
            raise Missing(f"no {command} on this machine")


def _run(command: list[str], **kwargs) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, **kwargs)
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        raise Missing(f"{' '.join(command[:3])} ... failed: {' '.join(last)}")


_FETCH = {
    "flink": fetch_flink,
    "prism": fetch_prism,
    "bucket": fetch_bucket,
    "s3": fetch_s3,
    "azure": fetch_azure,
    "delta": fetch_delta,
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        try:
            print(_FETCH[name]())
        except (Missing, subprocess.TimeoutExpired) as why:
            print(f"notice: {name}: {why}; its tests will be skipped")
