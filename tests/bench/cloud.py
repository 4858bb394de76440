"""Stores on loopback that do nothing but answer, with a stated delay per request.

They serve the files of one folder as `gs://photos/NAME`, `s3://photos/NAME`, `az://photos/NAME` and
by their addresses: the two calls that the job makes, listing and download, and no more.
`cloud.py FOLDER DELAY_MS` prints the port and serves until killed. In the place of a folder,
`COUNTxFOLDERS` are so many empty files with names like hashes, in so many folders; 0: in none.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse

import google_crc32c

PAGE = 1000
STORES = ("gs", "s3", "az", "https")


@contextlib.contextmanager
def server(folder: pathlib.Path | str, delay_ms: float):
    """Runs the stores in a process of their own; gives the environment of a client, and the url."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(delay_ms)], stdout=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{int(child.stdout.readline())}"
        environment = {
            "STORAGE_EMULATOR_HOST": url,
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": "here",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AZURE_STORAGE_ENDPOINT": url,
            "AZURE_STORAGE_ACCOUNT_NAME": "bench",
            "AZURE_STORAGE_ACCOUNT_KEY": "YmVuY2g=",
        }
        yield environment, url
    finally:
        child.kill()
        child.wait()


def inputs(kind: str, folder: pathlib.Path, url: str, scratch: pathlib.Path) -> list[str]:
    """What to give to `classify`: the bucket, or a list of all addresses."""
    if kind != "https":
        return [f"{kind}://photos"]
    addresses = [f"{url}/photos/{name}\n" for name in sorted(os.listdir(folder))]
    path = scratch / "addresses.txt"
    path.write_text("".join(addresses))
    return [str(path), "--allow-private-hosts", "--host-connections=64"]


def row(done: dict) -> dict:
    """The figures of a job that matter here.

    The store answers from the same cores, which a real one does not: `images/s of ours` is over
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


class _Stores(asyncio.Protocol):
    """One connection, kept alive. HTTP/1.1 without bodies in requests, as GETs have none."""

    def __init__(self, files: dict[str, bytes], delay: float):
        self._files, self._delay = files, delay
        self._names = list(files)
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
        said = dict(urllib.parse.parse_qsl(query))
        if path.endswith("/o"):
            return _http(200, self._google(said), "application/json")
        if "list-type" in said:
            return _http(200, self._amazon(said), "application/xml")
        if said.get("comp") == "list":
            return _http(200, self._azure(said), "application/xml")
        mark = "/o/" if "/o/" in path else "/photos/"
        name = urllib.parse.unquote(path.rpartition(mark)[2])
        if name not in self._files:
            return _http(404, b"{}", "application/json")
        body = self._files[name]
        crc = base64.b64encode(google_crc32c.Checksum(body).digest()).decode()
        more = f'ETag: "1"\r\nLast-Modified: {_DATE}\r\nX-Goog-Hash: crc32c={crc}\r\n'
        return _http(200, body, "image/jpeg", more)

    def _page(self, said: dict, token: str) -> tuple[list[str], list[str], str]:
        """(names, folders, token of the next page or "")."""
        prefix, end = said.get("prefix", ""), said.get("endOffset")
        at = bisect.bisect_left(
            self._names, max(prefix, said.get("startOffset", ""), said.get("startFrom", ""))
        )
        at = max(at, bisect.bisect_right(self._names, said.get("start-after", "")))
        at = int(said.get(token) or at)
        names: list[str] = []
        folders: list[str] = []
        most = int(said.get("maxResults", PAGE))
        while at < len(self._names) and len(names) + len(folders) < most:
            name = self._names[at]
            if not name.startswith(prefix) or (end and name >= end):
                return names, folders, ""
            first, slash, _ = name[len(prefix) :].partition("/")
            if slash and "delimiter" in said:
                folders.append(f"{prefix}{first}/")
                at = bisect.bisect_left(self._names, f"{prefix}{first}0")  # after "/" comes "0"
            else:
                names.append(name)
                at += 1
        return names, folders, str(at) if at < len(self._names) else ""

    def _google(self, said: dict) -> bytes:
        names, folders, following = self._page(said, "pageToken")
        items = [
            {"name": n, "bucket": "photos", "size": str(len(self._files[n])), "generation": "1"}
            for n in names
        ]
        page = {"kind": "storage#objects", "items": items, "prefixes": folders}
        return json.dumps(page | ({"nextPageToken": following} if following else {})).encode()

    def _amazon(self, said: dict) -> bytes:
        names, _, following = self._page(said, "continuation-token")
        items = "".join(
            f"<Contents><Key>{n}</Key><Size>{len(self._files[n])}</Size><ETag>&quot;1&quot;</ETag>"
            "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
            for n in names
        )
        token = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
        return f"<ListBucketResult>{items}{token}</ListBucketResult>".encode()

    def _azure(self, said: dict) -> bytes:
        names, folders, following = self._page(said, "marker")
        items = "".join(
            f"<Blob><Name>{n}</Name><Properties><Content-Length>{len(self._files[n])}"
            f"</Content-Length><Last-Modified>{_DATE}</Last-Modified><Etag>1</Etag>"
            "<Content-Type>image/jpeg</Content-Type></Properties></Blob>"
            for n in names
        )
        items += "".join(f"<BlobPrefix><Name>{name}</Name></BlobPrefix>" for name in folders)
        return (
            f"<EnumerationResults><Blobs>{items}</Blobs><NextMarker>{following}</NextMarker>"
            "</EnumerationResults>"
        ).encode()


_DATE = "Wed, 01 Jan 2025 00:00:00 GMT"


def _http(status: int, body: bytes, kind: str, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{more}\r\n".encode() + body


def _files_of(folder: str) -> dict[str, bytes]:
    """name → content, in the order of names."""
    if os.path.isdir(folder):
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        return {entry.name: pathlib.Path(entry.path).read_bytes() for entry in found}
    count, folders = map(int, folder.split("x"))
    names = (hashlib.md5(str(number).encode()).hexdigest() + ".jpg" for number in range(count))
    if folders:
        names = (f"{number % folders:04d}/{name}" for number, name in enumerate(names))
    return {f"scans/{name}": b"." for name in sorted(names)}


async def _serve(folder: str, delay_ms: str) -> None:
    files = _files_of(folder)
    loop = asyncio.get_running_loop()
    bucket = await loop.create_server(
        lambda: _Stores(files, float(delay_ms) / 1e3), "127.0.0.1", 0, backlog=256
    )
    print(bucket.sockets[0].getsockname()[1], flush=True)
    await bucket.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
