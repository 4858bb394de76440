"""Beam's job server from a Maven repository on loopback: whole, checked, or not at all."""

import hashlib
import pathlib

import pytest
from apache_beam.utils.subprocess_server import JavaJarServer
from apache_beam.version import __version__ as BEAM
from web_server import serving_folder

from imagecensus.jobs.classification.flink_job_server import JarError, check_jar, job_server_jar
from imagecensus.model_export.common.fetch import FetchError

CONTENT = b"a jar" * 1000


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A Maven repository with one artifact: its URL, and the artifact's path."""
    monkeypatch.setattr(JavaJarServer, "JAR_CACHE", str(tmp_path / "cache"))
    artifact = "beam-runners-flink-1.19-job-server"
    folder = tmp_path / "maven" / "org" / "apache" / "beam" / artifact / BEAM
    folder.mkdir(parents=True)
    jar = folder / f"{artifact}-{BEAM}.jar"
    jar.write_bytes(CONTENT)
    jar.with_name(jar.name + ".sha1").write_text(hashlib.sha1(CONTENT).hexdigest())
    with serving_folder(tmp_path / "maven") as url:
        yield url, jar


def test_it_is_fetched_once_and_checked_each_time(repository):
    url, original = repository
    jar = job_server_jar("1.19", url)
    assert pathlib.Path(jar).read_bytes() == CONTENT
    original.unlink()
    assert job_server_jar("1.19", url) == jar
    with open(jar, "ab") as file:
        file.write(b"and more")
    with pytest.raises(JarError, match="SHA-1"):
        job_server_jar("1.19", url)


def test_another_content_than_its_checksum_is_never_kept(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("imagecensus.model_export.common.fetch.time.sleep", lambda _: None)
    url, original = repository
    original.write_bytes(b"not " + CONTENT)
    with pytest.raises(FetchError, match="SHA-1"):
        job_server_jar("1.19", url)
    assert not list((tmp_path / "cache").glob("*.jar"))


def test_a_version_that_is_not_there_is_a_sentence(repository):
    with pytest.raises(FetchError, match="404"):
        job_server_jar("9.9", repository[0])


def test_a_jar_without_a_checksum_is_the_users_own(tmp_path):
    (tmp_path / "own.jar").write_bytes(CONTENT)
    check_jar(str(tmp_path / "own.jar"))
