"""A bucket on loopback."""

import contextlib
import logging

import pytest
from object_servers import forget_clients

from imagecensus.transforms.decoders import lease
from imagecensus.transforms.storage import gcs_client


@contextlib.contextmanager
def emulated_bucket(name: str):
    """An empty bucket in an emulator of this process, which the package's client then uses."""
    server = pytest.importorskip("gcp_storage_emulator.server")
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    emulator = server.create_server("localhost", 0, in_memory=True, default_bucket=name)
    emulator.start()
    port = emulator._api._httpd.socket.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
        patch.setattr(lease, "_open", [])  # decoders that started before do not know of it
        forget_clients()
        yield gcs_client.bucket_client().bucket(name)
    forget_clients()
    emulator.stop()
