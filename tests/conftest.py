"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from object_servers import SERVERS, forget_clients, missing
from samples import SHARED_DATA, ProofHere, export_tiny

from imagecensus.model_export import verify
from imagecensus.transforms.dataset.layout import Layout
from imagecensus.transforms.decoders import lease
from imagecensus.transforms.decoders.pool import Pool
from imagecensus.transforms.image_ref import Limits
from imagecensus.transforms.storage import protocol

# They take longest, and begin first: what begins last is waited for.
_LONG = ("flink", "test_stores.py", "test_fit.py", "test_classify.py", "test_demo.py")
_FLINK = ("test_flink.py", "test_flink_poison.py", "test_remote_job.py")


def _group_of(nodeid: str) -> str:
    """Tests of a group run in one process: they share what is slow to start."""
    name = nodeid.split("::")[0].rpartition("/")[2]
    return "flink" if name in _FLINK else name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _group_of(nodeid)

    return ByGroup(config, log)


def pytest_collection_modifyitems(items):
    groups = {}
    for item in items:
        groups.setdefault(_group_of(item.nodeid), []).append(item)
    first = [groups.pop(name, []) for name in _LONG]
    items[:] = [item for group in (*first, *groups.values()) for item in group]
    if importlib.util.find_spec("tfx_bsl") is None:
        skip = pytest.mark.skip(reason="no tfx-bsl here")
        for item in items:
            if "tfrecord" in item.nodeid.lower() or "tfx" in item.nodeid.lower():
                item.add_marker(skip)
    if SHARED_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason="no ../shared/data beside the checkout")
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    return export_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> str:
    """The same architecture with other weights: another digest, other rows."""
    return export_tiny(tmp_path_factory.mktemp("models") / "other", seed=2)


@pytest.fixture
def layout(tmp_path) -> Layout:
    """An empty output."""
    layout = Layout(output=str(tmp_path / "out"))
    layout.make()
    return layout


@pytest.fixture
def ordinary_user():
    """Calls a function as a user who is not root (nothing is forbidden to root)."""

    def call(function):
        if os.getuid() != 0:
            return function()
        context = multiprocessing.get_context("fork")
        receive, send = context.Pipe(duplex=False)

        def child():
            os.setgid(65534)
            os.setuid(65534)
            send.send(function())

        process = context.Process(target=child)
        process.start()
        send.close()
        result = receive.recv()
        process.join()
        return result

    return call


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """Starts the emulator of a store by name, once; skips where it cannot be had.

    With REQUIRE_EMULATORS set, as in CI, it fails there.
    """
    started = {}

    def start(name: str):
        if name not in started:
            reason = missing(name)
            if reason:
                (pytest.fail if os.environ.get("REQUIRE_EMULATORS") else pytest.skip)(reason)
            started[name] = SERVERS[name]()
            started[name].start(tmp_path_factory.mktemp(name))
        return started[name]

    yield start
    for server in started.values():
        server.stop()


@pytest.fixture(scope="session")
def decoders_of():
    """Decoder processes for all tests of a store; they saw what is set for it when they started."""
    started = {}

    def of(name: str):
        if name not in started:
            usual = Limits()
            started[name] = lease._Lease(pool=Pool(usual), asked=(usual, 0), users=1)
            started[name].pool.start()
        return started[name]

    yield of
    for one in started.values():
        one.pool.close()


@pytest.fixture
def reach(servers, monkeypatch, own_decoders, decoders_of):
    """Starts the emulator of a store by name, and sets what a user of it sets."""

    def start(name: str):
        server = servers(name)
        for variable in list(os.environ):
            if variable.startswith(("AWS_", "AZURE_", "STORAGE_EMULATOR")):
                monkeypatch.delenv(variable)
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(protocol, "RETRY_PAUSE", (0.02, 0.2))
        forget_clients()
        lease._open[:] = [decoders_of(name)]
        return server

    yield start
    forget_clients()


@pytest.fixture(params=list(SERVERS))
def remote(request, reach):
    """An emulator of each store in turn, behind a proxy that does harm."""
    return reach(request.param)


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, driven by Playwright."""
    path = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if not path:
        pytest.skip("no chromium here; `make chromium` installs it on Debian and Ubuntu")
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--headless", "--no-sandbox", "--disable-gpu"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def proof_here(monkeypatch):
    """Proves exports in this process: another one takes seconds to start TensorFlow.

    For tests of other things than the proof.
    """
    monkeypatch.setattr(verify, "subprocess", ProofHere)


@pytest.fixture(scope="session", autouse=True)
def _decoders():
    """Decoder processes that start once for all tests, where these take the usual limits."""
    with lease.lease():
        yield


@pytest.fixture
def own_decoders(monkeypatch):
    """For a test that harms its decoders, or sets what they look at when they start."""
    monkeypatch.setattr(lease, "_open", [])
