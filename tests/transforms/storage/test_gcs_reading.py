"""Bytes of Google's objects: checksums, what is stored as gzip, credentials, errors."""

from __future__ import annotations

import base64
import gzip
import http.server

import google_crc32c
import pytest
from object_servers import forget_clients
from web_server import serving

from imagecensus.transforms.storage import gcs_client, protocol, store

DATA = bytes(range(256)) * 10


def _checksum(data: bytes) -> str:
    return "crc32c=" + base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, body = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def google(monkeypatch):
    """A server that gives the answers that a test puts into `answers`, and keeps what was asked."""
    monkeypatch.setattr(protocol, "RETRY_PAUSE", (0.01, 0.02))
    with serving(_Handler, answers=[], asked=[]) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        forget_clients()
        yield server
        forget_clients()


def test_the_generation_is_asked_for_and_the_checksum_compared(google):
    google.answers = [(200, {"X-Goog-Hash": _checksum(DATA)}, DATA)]
    assert store.read("gs://photos/a b/ü.jpg", "7") == DATA
    [(path, headers)] = google.asked
    assert path == "/download/storage/v1/b/photos/o/a%20b%2F%C3%BC.jpg?alt=media&generation=7"
    assert headers["User-Agent"].startswith("imagecensus/")


def test_other_bytes_than_the_checksum_says_are_asked_for_again_and_given_up(google):
    wrong = (200, {"X-Goog-Hash": f"md5=abc,{_checksum(b'other')}"}, DATA)
    google.answers = [wrong, (200, {"X-Goog-Hash": _checksum(DATA)}, DATA)]
    assert store.read("gs://photos/a.jpg") == DATA
    google.answers = [wrong] * protocol.CORRUPT_TRIES
    with pytest.raises(OSError, match="checksum"):
        store.read("gs://photos/a.jpg")


def test_what_is_stored_as_gzip_is_unpacked_after_its_checksum(google):
    packed = gzip.compress(DATA)
    headers = {"Content-Encoding": "gzip", "X-Goog-Hash": _checksum(packed)}
    google.answers = [(200, headers, packed)]
    assert store.read("gs://photos/a.jpg") == DATA
    assert google.asked[0][1]["Accept-Encoding"] == "gzip", "else the checksum is of other bytes"
    google.answers = [(200, {"Content-Encoding": "gzip"}, packed[:-9])]
    with pytest.raises(OSError, match="stored as gzip, and damaged"):
        store.read("gs://photos/a.jpg")
    google.answers = [(206, headers, packed[2:5])]
    assert store.store_of("gs://photos").read_range("gs://photos/a.jpg", 2, 3) == packed[2:5]


def test_a_token_that_was_revoked_is_fetched_anew_once(google, monkeypatch):
    class Credentials:
        token, refreshed = "old", 0

        def before_request(self, _request, _method, _url, headers):
            headers["Authorization"] = f"Bearer {self.token}"

        def refresh(self, _request):
            self.token, self.refreshed = "new", self.refreshed + 1

    mine = Credentials()
    monkeypatch.setattr(gcs_client.bucket_client(), "_credentials", mine)
    google.answers = [(401, {}, b""), (200, {}, DATA)]
    assert store.read("gs://photos/a.jpg") == DATA
    assert [headers["Authorization"] for _, headers in google.asked] == ["Bearer old", "Bearer new"]
    google.answers = [(401, {}, b"")] * 2
    with pytest.raises(PermissionError):
        store.read("gs://photos/a.jpg")
    assert mine.refreshed == 2


@pytest.mark.parametrize(
    "status, body, error, told",
    [
        (404, b"Not Found", FileNotFoundError, "no such object"),
        (401, b"", PermissionError, "answered 401"),
        (403, b'{"error": {"message": "x lacks storage.objects.get"}}', PermissionError, "x lacks"),
        (400, b"no such host", OSError, "no such host"),
    ],
)  # fmt: skip
def test_what_errors_say(google, status, body, error, told):
    google.answers = [(status, {}, body)] * 2
    with pytest.raises(error, match=told):
        store.read("gs://photos/a.jpg")


def test_a_range_past_the_end_is_empty_and_one_of_another_generation_is_reported(google):
    objects = store.store_of("gs://photos")
    google.answers = [(416, {}, b"")]
    assert objects.read_range("gs://photos/a.tar", 10, 5) == b""
    google.answers = [(412, {}, b"")]
    with pytest.raises(store.ChangedError, match="replaced"):
        objects.read_range("gs://photos/a.tar", 0, 5, "7")
    assert "ifGenerationMatch=7" in google.asked[1][0]
    assert google.asked[1][1]["Range"] == "bytes=0-4"


@pytest.mark.parametrize(
    "passing",
    [(503, {}, b""), (429, {}, b""), (200, {"Content-Length": "99", "Connection": "close"}, b"x")],
    ids=["503", "429", "a body cut short"],
)
def test_passing_faults_are_asked_again(google, passing):
    google.answers = [passing, (200, {}, DATA)]
    assert store.read("gs://photos/a.jpg") == DATA
