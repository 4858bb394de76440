"""One Flink cluster for all tests that need one: its Java processes take a minute to start."""

from __future__ import annotations

import os
import pathlib

import fetch_engines
import pytest
from flink_cluster import LIGHT, cluster_in

from imagecensus.model_export.common.fault_injection import VARIABLE

HELD_AT = 33  # of the units that a worker begins: there it waits while `held.go` is not there
POISON = pathlib.Path(__file__).parents[1] / "poison"

os.environ["JAVA_TOOL_OPTIONS"] = " ".join(LIGHT)  # of each job's server, too: 3 s less


def pytest_collection_modifyitems(items):
    if fetch_engines.job_server_jar() and (fetch_engines.FLINK_HOME / "lib").is_dir():
        return
    skip = pytest.mark.skip(
        reason="no Flink in the user's cache; make flink-env fetches it (needs Java and Maven)"
    )
    for item in items:
        if "flink" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def begun(tmp_path_factory):
    """A file that gets a line for each unit that a worker of the cluster begins."""
    return tmp_path_factory.mktemp("counts") / "begun"


@pytest.fixture
def held(begun):
    """A file to touch: until then, each worker waits where it begins its unit HELD_AT."""
    go = begun.with_name("held.go")
    go.unlink()
    yield go
    go.touch()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, begun):
    """Its workers count what they do beside `begun`, and have a defective decoder."""
    folder = begun.parent
    faults = [f"unit.begun:*:{begun}", f"part.renamed:*:{folder}/written"]
    faults.append(f"unit.begun:{HELD_AT}:{folder}/held")
    (folder / "held.go").touch()
    environment = {VARIABLE: ";".join(faults), "PYTHONPATH": str(POISON)}
    with cluster_in(tmp_path_factory.mktemp("flink"), environment) as cluster:
        yield cluster
