"""Stores on loopback, each behind a proxy that does harm: one interface for the tests of all."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request

import fetch_engines
import gcs_server
from fault_proxy import Fault, Proxied

from imagecensus.transforms.storage import gcs_client, object_clients, store

BUCKET = gcs_server.BUCKET
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
# The account that every Azurite has, with its well-known key.
_AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class Server(Proxied):
    """An emulator of a store and the proxy before it.

    Attributes:
      root: the uri of its bucket.
      environment: what a user sets to reach it.
    """

    root: str
    environment: dict[str, str]

    def start(self, folder: pathlib.Path) -> None:
        raise NotImplementedError

    def run(self, *command: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )  # fmt: skip

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self.close()

    def reading(self, name: str) -> str:
        """A pattern of requests that read an object of that name, and of no others."""
        return rf"GET [^?]*{name}"

    listing: str
    writing = "PUT "

    def uri(self, name: str) -> str:
        return f"{self.root}/{name}"

    def put(self, name: str, data: bytes) -> None:
        store.write(self.uri(name), data)

    def get(self, name: str) -> bytes:
        return store.read(self.uri(name))

    def names(self, prefix: str) -> list[str]:
        uris = store.store_of(self.root).list(self.uri(prefix))
        return sorted(found.uri[len(self.root) + 1 :] for found in uris)

    def put_tree(self, name: str, folder) -> None:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder)}", path.read_bytes())

    def _wait(self, ready) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                return ready()
            except Exception:
                assert time.monotonic() < deadline, "the emulator did not start"
                time.sleep(0.1)


class Google(Server):
    """fake-gcs-server."""

    root = f"gs://{BUCKET}"
    listing = r"GET .*/o\?"
    writing = "POST /upload"

    def start(self, folder: pathlib.Path) -> None:
        self.run(
            str(fetch_engines.FAKE_GCS), "-scheme=http", "-host=127.0.0.1", f"-port={self.port}",
            "-backend=filesystem", f"-filesystem-root={folder}", "-log-level=error",
            f"-public-host=127.0.0.1:{self.port}",
        )  # fmt: skip
        self.environment = {"STORAGE_EMULATOR_HOST": self.url}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/storage/v1/b?project=test",
            b'{"name": "%s"}' % BUCKET.encode(),
            {"Content-Type": "application/json"},
        )
        self._wait(lambda: urllib.request.urlopen(request, timeout=5).read())

    def reading(self, name: str) -> str:
        return rf"GET .*{name}.*alt=media"


class _S3(Server):
    root = f"s3://{BUCKET}"
    listing = r"GET .*list-type"

    def says(self, status: int) -> tuple[str, bytes]:
        return "application/xml", b"<Error><Code>Injected</Code><Message>injected</Message></Error>"

    def _make_bucket(self) -> None:
        self.environment = {**_KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1"}
        import boto3

        client = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1",
            aws_access_key_id=_KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_KEYS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        self._wait(lambda: client.create_bucket(Bucket=BUCKET))


class Moto(_S3):
    def start(self, folder: pathlib.Path) -> None:
        self.run(sys.executable, "-m", "moto.server", "-H127.0.0.1", f"-p{self.port}")
        self._make_bucket()


class Versity(_S3):
    def start(self, folder: pathlib.Path) -> None:
        self.run(
            str(fetch_engines.VERSITY), "--quiet", f"--port=127.0.0.1:{self.port}", "posix",
            str(folder), ROOT_ACCESS_KEY_ID="test", ROOT_SECRET_ACCESS_KEY="test-secret",
        )  # fmt: skip
        self._make_bucket()


class Azurite(Server):
    root = f"az://{BUCKET}"
    listing = r"GET .*comp=list"

    def start(self, folder: pathlib.Path) -> None:
        self.run(
            "node", str(fetch_engines.AZURITE), "--silent", "--skipApiVersionCheck",
            "--disableTelemetry", f"--location={folder}", f"--blobPort={self.port}",
        )  # fmt: skip
        self.environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
            "AZURE_STORAGE_ACCOUNT_KEY": _AZURITE_KEY,
            "AZURE_STORAGE_ENDPOINT": f"{self.url}/devstoreaccount1",
        }
        self._wait(self._make_container)

    def says(self, status: int) -> tuple[str, bytes]:
        return "application/xml", b"<Error><Code>Injected</Code><Message>injected</Message></Error>"

    def _make_container(self) -> None:
        """Signs one request as Azure's shared key does: no library of ours makes containers."""
        import base64
        import email.utils
        import hashlib
        import hmac

        date = email.utils.formatdate(usegmt=True)
        path = f"/devstoreaccount1/{BUCKET}"
        text = (
            "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
            f"/devstoreaccount1{path}\nrestype:container"
        )
        key = base64.b64decode(_AZURITE_KEY)
        signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}?restype=container", method="PUT",
            headers={"x-ms-date": date, "x-ms-version": "2021-08-06",
                     "Authorization": f"SharedKey devstoreaccount1:{signature}"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=5).read()


SERVERS: dict[str, type[Server]] = {
    "gs": Google,
    "s3-moto": Moto,
    "s3-versitygw": Versity,
    "azure": Azurite,
}


def missing(name: str) -> str:
    """Why a store's emulator cannot be started here; "": it can."""
    if name == "gs" and not fetch_engines.FAKE_GCS.is_file():
        return "no fake-gcs-server in the user's cache; make bucket-emulator builds it (needs Go)"
    if name == "s3-moto" and importlib.util.find_spec("moto") is None:
        return "moto is not installed"
    if name == "s3-versitygw" and not fetch_engines.VERSITY.is_file():
        return "no versitygw in the user's cache; make s3-emulator builds it (needs Go)"
    if name == "azure" and not (shutil.which("node") and fetch_engines.AZURITE.is_file()):
        return "no azurite in the user's cache; make azure-emulator installs it (needs Node.js)"
    return ""


def forget_clients() -> None:
    """As a new process: clients are made anew, from the environment of now."""
    if gcs_client.bucket_client.cache_info().currsize:
        gcs_client.bucket_client()._http.close()
    gcs_client.bucket_client.cache_clear()
    object_clients.client.cache_clear()


__all__ = ["BUCKET", "SERVERS", "Fault", "Moto", "Server", "forget_clients", "missing"]
