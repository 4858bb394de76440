"""A bucket on loopback that does nothing but answer, with a stated delay per request.

It serves the files of one folder as `gs://photos/NAME`: the two calls that the job makes, listing
and download, and no more. `cloud.py FOLDER DELAY_MS` prints its port and serves until killed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse

import google_crc32c

PAGE = 1000


@contextlib.contextmanager
def server(folder: pathlib.Path, delay_ms: float):
    """Runs the bucket in a process of its own; gives the environment of a client."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(delay_ms)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{int(child.stdout.readline())}"}
    finally:
        child.kill()
        child.wait()


def row(done: dict) -> dict:
    """The figures of a job that matter here.

    The bucket answers from the same cores, which a real one does not: `images/s of ours` is over
    the part of the machine that it left.
    """
    count = done["images"]
    return {
        "images/s": count / done["steady"],
        "images/s of ours": count / done["steady"] / (1 - done["others"]),
        "cores of others": done["others"],
        "read_cpu_ms": done["stages_cpu"]["read"] / count * 1e3,
        "infer_cpu_ms": done["stages_cpu"]["infer"] / count * 1e3,
        "overhead_cpu_ms": done["stages_cpu"]["overhead"] / count * 1e3,
    }


class _Bucket(asyncio.Protocol):
    """One connection, kept alive. HTTP/1.1 without bodies in requests, as GETs have none."""

    def __init__(self, files: dict[str, bytes], delay: float):
        self._files, self._delay = files, delay
        self._waiting = b""

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._waiting += data
        while b"\r\n\r\n" in self._waiting:
            head, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            answer = self._answer(target)
            if self._delay:
                loop = asyncio.get_running_loop()
                loop.call_later(self._delay, self._transport.write, answer)
            else:
                self._transport.write(answer)

    def _answer(self, target: str) -> bytes:
        path, _, query = target.partition("?")
        if path.endswith("/o"):
            return _http(200, self._list(dict(urllib.parse.parse_qsl(query))), "application/json")
        name = urllib.parse.unquote(path.rsplit("/o/", 1)[-1])
        if name not in self._files:
            return _http(404, b"{}", "application/json")
        body = self._files[name]
        crc = base64.b64encode(google_crc32c.Checksum(body).digest()).decode()
        return _http(200, body, "image/jpeg", f"X-Goog-Hash: crc32c={crc}\r\n")

    def _list(self, query: dict) -> bytes:
        names = sorted(n for n in self._files if n.startswith(query.get("prefix", "")))
        start = int(query.get("pageToken", 0))
        items = [
            {"name": n, "bucket": "photos", "size": str(len(self._files[n])), "generation": "1"}
            for n in names[start : start + PAGE]
        ]
        page = {"kind": "storage#objects", "items": items}
        if start + PAGE < len(names):
            page["nextPageToken"] = str(start + PAGE)
        return json.dumps(page).encode()


def _http(status: int, body: bytes, kind: str, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{more}\r\n".encode() + body


async def _serve(folder: str, delay_ms: str) -> None:
    files = {e.name: pathlib.Path(e.path).read_bytes() for e in os.scandir(folder)}
    loop = asyncio.get_running_loop()
    bucket = await loop.create_server(
        lambda: _Bucket(files, float(delay_ms) / 1e3), "127.0.0.1", 0, backlog=256
    )
    print(bucket.sockets[0].getsockname()[1], flush=True)
    await bucket.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
