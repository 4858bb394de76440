"""Bytes of Google's objects, by requests of our own: a third of the CPU of the client's (0.3 ms).

Credentials, proxies, certificates, repetition and errors are the client's; the checksum is compared
as it does.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import json
import threading
import zlib
from typing import Any
from urllib.parse import quote, urlencode

import google_crc32c
import urllib3

from imagecensus.model_export.common.version import __version__
from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.gcs_client import bucket_client, retry, split_bucket


class CorruptError(Exception):
    """Other bytes came than the object's checksum says."""


def read_object(uri: str, generation: str = "") -> bytes:
    """The whole object of that generation; what is stored as gzip, unpacked.

    Raises CorruptError, or errors of Google's libraries.
    """
    response = _reader(bucket_client()).get(uri, {"generation": generation}, {})
    data: bytes = response.data
    for part in response.headers.get("X-Goog-Hash", "").split(","):
        name, _, said = part.strip().partition("=")
        if name == "crc32c" and int.from_bytes(base64.b64decode(said)) != google_crc32c.value(data):
            raise CorruptError(uri)
    if response.headers.get("Content-Encoding") != "gzip":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(5, f"stored as gzip, and damaged: {error}", uri) from None


def read_object_range(uri: str, offset: int, length: int, generation: str = "") -> bytes:
    """Bytes as they are stored. Raises errors of Google's libraries."""
    span = {"Range": f"bytes={offset}-{offset + length - 1}"}
    response = _reader(bucket_client()).get(uri, {"ifGenerationMatch": generation}, span)
    data: bytes = response.data
    return data[:length]


@functools.lru_cache(maxsize=1)
def _reader(client: Any) -> _Reader:
    return _Reader(client)


class _Reader:
    """Connections to where a client's requests go, with its credentials."""

    def __init__(self, client: Any):
        from google.auth.transport.requests import Request
        from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

        self._base = client._connection.API_BASE_URL
        self._credentials, self._lock = client._credentials, threading.Lock()
        self._request = Request()
        connect, silent = protocol.TIMEOUT
        verify = client._http.verify
        settings: dict[str, Any] = {
            "maxsize": protocol.POOL_CONNECTIONS,
            "timeout": urllib3.Timeout(connect=connect, read=silent),
            "retries": False,
            "ca_certs": DEFAULT_CA_BUNDLE_PATH if verify is True else verify or None,
            "cert_reqs": "CERT_REQUIRED" if verify else "CERT_NONE",
        }
        proxy = select_proxy(self._base, client._http.proxies)
        self._pool: urllib3.PoolManager = (
            urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
        )

    def get(self, uri: str, query: dict[str, str], headers: dict[str, str]) -> Any:
        """The answer, whole. Raises google.api_core's exceptions, or requests' ConnectionError."""
        bucket, name = split_bucket(uri)
        said = urlencode({"alt": "media"} | {key: value for key, value in query.items() if value})
        path = f"/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}?{said}"
        return retry()(self._once)(self._base + path, headers)

    def _once(self, url: str, headers: dict[str, str]) -> Any:
        from google.api_core import exceptions
        from google.auth.exceptions import InvalidOperation

        answer = self._send(url, headers)
        if answer.status == 401:  # a token that was revoked before its time
            with self._lock, contextlib.suppress(InvalidOperation):  # nobody's
                self._credentials.refresh(self._request)
            answer = self._send(url, headers)
        if answer.status not in (200, 206):
            raise exceptions.from_http_status(answer.status, _sentence(answer))
        return answer

    def _send(self, url: str, headers: dict[str, str]) -> Any:
        import requests

        # gzip: else Google unpacks, and the checksum is that of other bytes.
        sent = {"Accept-Encoding": "gzip", "User-Agent": f"imagecensus/{__version__}"} | headers
        with self._lock:
            self._credentials.before_request(self._request, "GET", url, sent)
        try:
            return self._pool.request(
                "GET", url, headers=sent, redirect=False, decode_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(str(error)) from None


def _sentence(answer: Any) -> str:
    """What the server says of an error."""
    text = answer.data.decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["error"]["message"]
    return text[:200] or f"the server answered {answer.status}"
