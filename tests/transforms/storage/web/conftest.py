"""A web server that misbehaves, and classifying what it has."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from samples import make_photos
from web_server import PHOTOS, WebServer

from imagecensus.jobs.cli import main
from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.web import connections, manners
from imagecensus.transforms.storage.web.policy import WebPolicy


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server with photos of the names /00000.jpg, /00001.jpg, …"""
    server = WebServer()
    for path in make_photos(tmp_path / "photos", PHOTOS):
        name = path.rpartition("/")[2]
        with open(path, "rb") as file:
            server.files[f"/{name}"] = file.read()
    monkeypatch.setattr(protocol, "RETRY_PAUSE", (0.02, 0.2))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    manners.forget()
    connections._pools.cache_clear()
    yield server
    WebPolicy().apply()
    server.stop()


@pytest.fixture
def private(web):
    WebPolicy(allow_private_hosts=True).apply()
    return web


@pytest.fixture
def classified(tmp_path, tiny_model):
    """Classifies inputs on loopback and gives the rows in the order of their uris."""

    def classify(*inputs, expected=0) -> list[dict]:
        output = f"{tmp_path}/out"
        assert main(["classify", *inputs, f"--model={tiny_model}", f"--output={output}",
                     "--no-report", "--allow-private-hosts", "--max-failure-rate=1"]
                    ) == expected  # fmt: skip
        return pq.read_table(f"{output}/predictions").sort_by("uri").to_pylist()

    return classify
