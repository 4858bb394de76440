"""Downloads against a real HTTP server on loopback."""

import base64
import hashlib
import http.server

import pytest
from web_server import serving

from imagecensus.model_export.common.fetch import FetchError, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        start = 0
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if server.broken:
            server.broken -= 1
            self.send_error(server.error)
            return
        if asked and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        if server.md5:
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={server.md5}")
        self.end_headers()
        if server.cut:  # the line breaks once, in the middle
            body, server.cut = body[: server.cut], 0
        self.wfile.write(body)


@pytest.fixture
def server():
    md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    state = {"content": CONTENT, "etag": '"one"', "ranges": [], "md5": md5}
    with serving(_Handler, broken=0, error=503, cut=0, **state) as server:
        server.url += "/file"
        yield server


def read(path):
    with open(path, "rb") as file:
        return file.read()


def test_downloads_once(server, tmp_path):
    path = str(tmp_path / "deep" / "file")
    seen = []
    assert fetch(server.url, path, progress=lambda done, total: seen.append((done, total))) == path
    fetch(server.url, path)
    assert read(path) == CONTENT
    assert len(server.ranges) == 1 and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_cut_line_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 300_000
    path = fetch(server.url, str(tmp_path / "file"), pause=0)
    assert read(path) == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_another_file_meanwhile_starts_over(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"old" * 1000)
    (tmp_path / "file.part.etag").write_text('"zero"')
    assert read(fetch(server.url, str(tmp_path / "file"))) == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.broken = 2
    assert read(fetch(server.url, str(tmp_path / "file"), pause=0)) == CONTENT


def test_wrong_content_is_never_kept(server, tmp_path):
    with pytest.raises(FetchError, match="MD5"):
        fetch(server.url, str(tmp_path / "file"), digest="0" * 32, pause=0)
    with pytest.raises(FetchError, match="SHA-256"):
        fetch(server.url, str(tmp_path / "file"), digest="0" * 64, pause=0)
    server.md5 = base64.b64encode(b"0" * 16).decode()
    with pytest.raises(FetchError, match="MD5"):
        fetch(server.url, str(tmp_path / "file"), pause=0)
    assert not (tmp_path / "file").exists()


def test_a_refusal_is_reported_at_once(server, tmp_path):
    server.broken, server.error = 9, 404
    with pytest.raises(FetchError, match="404"):
        fetch(server.url, str(tmp_path / "file"))
    assert len(server.ranges) == 1


def test_no_server(tmp_path):
    with pytest.raises(FetchError, match="could not be downloaded"):
        fetch("http://127.0.0.1:9/file", str(tmp_path / "file"), pause=0)
