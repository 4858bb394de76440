"""A proxy on loopback before an emulator of a store, that does harm on request."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import re
import socket
import struct
import threading
import time


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


class Proxied:
    """What stands behind the proxy listens on `port`; `url` is the proxy's.

    Attributes:
      blind: conditions of writes (If-Match, If-None-Match) do not come through.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.blind = False
        self._proxy = _Server(("127.0.0.1", 0), _Handler)
        self._proxy.proxied = self
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def says(self, status: int) -> tuple[str, bytes]:
        """The type and body of an error, as this store puts it."""
        return "text/plain", b"injected"

    @contextlib.contextmanager
    def harm(self, *faults: Fault):
        self.faults, self.requests = list(faults), []
        try:
            yield self
        finally:
            self.faults = []

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()


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
        emulator = self.server.proxied
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{self.command} {self.path}"
        emulator.requests.append(line)
        fault = next(
            (f for f in emulator.faults if f.times > 0 and re.search(f.pattern, line)), None
        )
        if fault:
            fault.times -= 1
            if isinstance(fault.action, int):
                kind, text = emulator.says(fault.action)
                body = None if self.command == "HEAD" else text
                return self._answer(fault.action, {"Content-Type": kind}, body)
            if fault.action == "reset":
                return self._reset()
            time.sleep(fault.seconds)
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=60)
        left_out = ("connection", *(("if-match", "if-none-match") if emulator.blind else ()))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in left_out}
        self._upstream.request(self.command, self.path, body or None, headers)
        answer = self._upstream.getresponse()
        data = answer.read()
        if self.command == "HEAD":
            return self._answer(answer.status, dict(answer.getheaders()), None)
        if fault and fault.action == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        short = len(data) // 2 if fault and fault.action == "truncate" else None
        return self._answer(answer.status, dict(answer.getheaders()), data, short)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve

    def _answer(self, status: int, headers: dict, data: bytes | None, short: int | None = None):
        """`data`: None where the answer is to a HEAD, whose length is the object's."""
        self.send_response_only(status)
        replaced = ("content-length", "transfer-encoding", "connection")
        for name, value in headers.items():
            if data is None or name.lower() not in replaced:
                self.send_header(name, value)
        if data is None:
            self.end_headers()
            return
        if status != 204:
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

    def finish(self):
        super().finish()
        if self._upstream is not None:
            self._upstream.close()

    def log_message(self, *_):
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
