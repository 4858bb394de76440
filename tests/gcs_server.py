"""A bucket on loopback: fake-gcs-server, and a proxy before it that does harm on request."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
import urllib.request

import fetch_engines
from fault_proxy import Fault, Proxied

__all__ = ["BUCKET", "Emulator", "Fault"]

BUCKET = "census"


class Emulator(Proxied):
    """The emulator and its proxy; `url` is what STORAGE_EMULATOR_HOST is set to."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self._root = folder

    def says(self, status: int) -> tuple[str, bytes]:
        error = {"error": {"code": status, "message": "injected"}}
        return "application/json", json.dumps(error).encode()

    def start(self) -> None:
        # Its memory backend takes a millisecond more with every hundred objects.
        self._process = subprocess.Popen(
            [fetch_engines.FAKE_GCS, "-scheme=http", "-host=127.0.0.1", f"-port={self.port}",
             "-backend=filesystem", f"-filesystem-root={self._root}", "-log-level=error",
             f"-public-host=127.0.0.1:{self.port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                self._ask("POST", "/storage/v1/b?project=test", {"name": BUCKET})
                return
            except OSError:
                assert time.monotonic() < deadline, "the bucket emulator did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self.close()

    def put(self, name: str, data: bytes) -> None:
        request = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        self._ask("POST", request, data)

    def put_tree(self, name: str, folder) -> None:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder)}", path.read_bytes())

    def put_copies(self, template: str, names: list[str]) -> None:
        """Many objects like one that is there, without a request for each."""
        source = self._root / BUCKET / template
        attributes = os.getxattr(source, "user.metadata")
        data = source.read_bytes()
        for name in names:
            path = self._root / BUCKET / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.setxattr(path, "user.metadata", attributes)

    def get(self, name: str) -> bytes:
        return (self._root / BUCKET / name).read_bytes()

    def delete(self, name: str) -> None:
        (self._root / BUCKET / name).unlink()

    def names(self, prefix: str = "") -> list[str]:
        root = self._root / BUCKET
        found = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        return sorted(name for name in found if name.startswith(prefix))

    def folder(self, name: str) -> pathlib.Path:
        """The objects under a prefix as the files that they are."""
        return self._root / BUCKET / name

    def _ask(self, method: str, path: str, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": kind}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()
