"""A web server on loopback that serves files, and misbehaves by the address that is asked for."""

from __future__ import annotations

import collections
import contextlib
import gzip
import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import time
import urllib.parse

import pyarrow.parquet as pq

from imagecensus.jobs.cli import main

PHOTOS = 12


@contextlib.contextmanager
def serving(handler, **state):
    """A server on loopback that answers by `handler`, which finds `state`, and `url`, in it."""
    quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet) as server:
        vars(server).update(state, url=f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@contextlib.contextmanager
def serving_folder(folder):
    """The address of a server on loopback that has the files of a folder."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

    with serving(Files) as server:
        yield server.url


def names(web: WebServer) -> list[str]:
    """The photos of a server, as their paths."""
    return sorted(web.files)[:PHOTOS]


def classify_list(tmp_path, tiny_model, uris, *flags, output="out") -> list[dict]:
    (tmp_path / "list.txt").write_text("\n".join(uris) + "\n")
    flags = flags or ("--allow-private-hosts",)
    assert main(["classify", f"{tmp_path}/list.txt", f"--model={tiny_model}", "--no-report",
                 f"--output={tmp_path}/{output}", "--max-failure-rate=1", *flags]) == 0  # fmt: skip
    return pq.read_table(f"{tmp_path}/{output}/predictions").to_pylist()


class WebServer:
    """Files by path; before them, in a path, what is to go wrong: /503x2/a.jpg fails twice.

    Attributes:
      files: bytes by path.
      headers: more headers by path.
      asked: paths in the order of requests; `most` connections were open at once.
      sent: bytes of bodies without an end.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.times: collections.Counter = collections.Counter()
        self.open = self.most = self.sent = 0
        self.delay = 0.0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.web = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        with self.server.web.lock:
            self.server.web.open += 1
            self.server.web.most = max(self.server.web.most, self.server.web.open)

    def finish(self):
        with self.server.web.lock:
            self.server.web.open -= 1
        super().finish()

    def do_GET(self):
        web = self.server.web
        path = self.path.partition("?")[0]
        with web.lock:
            web.asked.append(self.path)
            web.times[self.path] += 1
            time_of = web.times[self.path]
        time.sleep(web.delay)
        self._serve(web, path, time_of)

    do_HEAD = do_GET

    def do_POST(self):
        """Answers with the JSON entries of a file whose `path` the body names, as the Hub does."""
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        entries = json.loads(self.server.web.files.get(self.path, b"[]"))
        quoted = urllib.parse.unquote_plus(asked)
        found = [entry for entry in entries if entry["path"] in quoted]
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

    def _serve(self, web, path: str, time_of: int) -> None:
        wanted = re.match(r"/(\w+?)x(\d+)(/.*)", path)
        if wanted and wanted[1] in ("503", "429", "reset", "truncate", "retryafter"):
            path = wanted[3]
            if time_of <= int(wanted[2]):
                return self._fail(web, wanted[1], path)
        if path.startswith("/loop"):
            return self._answer(302, {"Location": f"/loop?{time_of}"}, b"")
        if path.startswith("/to/"):
            return self._answer(302, {"Location": self.path[4:]}, b"page")
        data = web.files.get(path)
        if data is None:
            headers = {"Content-Type": "text/html"} | web.headers.get(path, {})
            return self._answer(404, headers, b"<html>none</html>")
        tag = f'"{hashlib.sha256(data).hexdigest()[:12]}"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes"} | web.headers.get(path, {})
        if headers.pop("no-head", None) and self.command == "HEAD":
            return self._answer(405, {}, b"")
        if self.headers.get("If-Match") not in (None, tag):
            return self._answer(412, {}, b"")
        if "status" in headers:
            return self._answer(int(headers["status"]), {}, b"")
        if headers.pop("drip", None):
            return self._drip(headers, data)
        if headers.pop("silent", None):
            time.sleep(2)
            return self._reset()
        if headers.pop("endless", None):
            return self._endless(headers)
        if headers.pop("packed", None):
            data, headers["Content-Encoding"] = gzip.compress(data), "gzip"
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span and not headers.pop("no-ranges", None):
            first, last = int(span[1]), min(int(span[2]), len(data) - 1)
            if first >= len(data):
                return self._answer(416, {}, b"")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._answer(206, headers, data[first : last + 1])
        headers.pop("no-ranges", None)
        return self._answer(200, headers, data)

    def _fail(self, web, how: str, path: str) -> None:
        if how == "reset":
            return self._reset()
        if how == "truncate":
            data = web.files[path]
            self._answer(200, {"Content-Length": str(len(data))}, data[: len(data) // 2])
            return self._reset()
        if how == "retryafter":
            return self._answer(503, {"Retry-After": "1"}, b"")
        return self._answer(int(how), {}, b"busy")

    def _drip(self, headers, data: bytes) -> None:
        self._answer(200, headers | {"Content-Length": str(len(data))}, data[:1])
        for at in range(1, len(data)):
            time.sleep(0.2)
            try:
                self.wfile.write(data[at : at + 1])
            except OSError:
                return

    def _endless(self, headers) -> None:
        """A body without a length and without an end."""
        self.send_response_only(200)
        for name, value in (headers | {"Transfer-Encoding": "chunked"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        for _ in range(10_000):
            try:
                self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            except OSError:
                return
            self.server.web.sent += 1 << 16

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _answer(self, status: int, headers: dict, data: bytes) -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass
