"""A bucket on loopback: fake-gcs-server, and a proxy before it that does harm on request."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.request

import fetch_engines

BUCKET = "census"


@dataclasses.dataclass
class Fault:
    """What the proxy does to requests whose "METHOD /path?query" matches, `times` times.

    `action`: an HTTP status; "reset" the connection; "truncate" the body; "corrupt" one byte of it;
    "slow" by `seconds`.
    """

    pattern: str
    action: int | str
    times: int = 1_000_000
    seconds: float = 0.0


class Emulator:
    """The emulator and its proxy; `url` is what STORAGE_EMULATOR_HOST is set to."""

    def __init__(self, folder: pathlib.Path):
        self._root = folder
        self.port = free_port()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self._proxy = _Server(("127.0.0.1", 0), _Handler)
        self._proxy.emulator = self
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"

    def start(self) -> None:
        # Its memory backend takes a millisecond more with every hundred objects.
        self._process = subprocess.Popen(
            [fetch_engines.FAKE_GCS, "-scheme=http", "-host=127.0.0.1", f"-port={self.port}",
             "-backend=filesystem", f"-filesystem-root={self._root}", "-log-level=error",
             f"-public-host=127.0.0.1:{self.port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
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
        self._proxy.shutdown()

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

    @contextlib.contextmanager
    def harm(self, *faults: Fault):
        self.faults, self.requests = list(faults), []
        try:
            yield self
        finally:
            self.faults = []

    def _ask(self, method: str, path: str, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": kind}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # clients that give up are part of the game


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _upstream = None

    def _serve(self):
        emulator = self.server.emulator
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{self.command} {self.path}"
        emulator.requests.append(line)
        fault = next(
            (f for f in emulator.faults if f.times > 0 and re.search(f.pattern, line)), None
        )
        if fault:
            fault.times -= 1
            if isinstance(fault.action, int):
                text = json.dumps({"error": {"code": fault.action, "message": "injected"}}).encode()
                return self._answer(fault.action, {"Content-Type": "application/json"}, text)
            if fault.action == "reset":
                return self._reset()
            time.sleep(fault.seconds)
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection("127.0.0.1", emulator.port)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection",)}
        self._upstream.request(self.command, self.path, body or None, headers)
        answer = self._upstream.getresponse()
        data = answer.read()
        if fault and fault.action == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        short = len(data) // 2 if fault and fault.action == "truncate" else None
        return self._answer(answer.status, dict(answer.getheaders()), data, short)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve

    def _answer(self, status: int, headers: dict, data: bytes, short: int | None = None):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:short])
        if short is not None:
            self._reset()

    def _reset(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_):
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
