"""Downloads that survive a bad line: resumed where they stopped, checked, atomic."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from imagecensus.model_export.common.errors import UserError

_CHUNK = 2**18
_TIMEOUT = 30
_ATTEMPTS = 4
_ALGORITHMS = {32: "MD5", 40: "SHA-1", 64: "SHA-256", 128: "SHA-512"}  # by length in hex

# Called with the bytes so far, and those in all where they are known.
Progress = Callable[[int, int | None], None]


class FetchError(UserError):
    """A file could not be downloaded. The message names the URL."""


def fetch(
    url: str, path: str, digest: str = "", progress: Progress | None = None, pause: float = 1.0
) -> str:
    """Downloads a file once; the file at `path` is always a whole one.

    What an interrupted download left in `path`.part is continued, if the server still has the
    same file. The content is checked against the length and MD5 that the server states, and
    against `digest` where it is known.

    Args:
      url: http or https.
      path: where it goes.
      digest: hex, of the right content: MD5, SHA-1, SHA-256 or SHA-512, by its length.
      progress: called with each chunk.
      pause: seconds before the second attempt; doubles with each.

    Returns:
      The path.

    Raises:
      FetchError: no answer after several attempts, a refusal, or wrong content.
    """
    if os.path.isfile(path):
        return path
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    partial = path + ".part"
    problem: Exception | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            stated = _continue(url, partial, progress)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise FetchError(f"{url}: {error.code} {error.reason}") from None
            if error.code == 416:  # the part is longer than the file: another file by now
                _forget(partial)
            problem = error
            continue
        except urllib.error.URLError as error:
            problem = error.reason if isinstance(error.reason, Exception) else error
            if not isinstance(problem, (TimeoutError, ConnectionError)):
                break  # no such host: there is no network, and waiting does not help
            continue
        except (OSError, http.client.HTTPException) as error:
            problem = error
            continue
        for expected in filter(None, (digest, stated)):
            name, actual = digest_like(partial, expected)
            if actual != expected:
                _forget(partial)
                problem = FetchError(f"its {name} is {actual} instead of {expected}")
                break
        else:
            _forget(partial + ".etag")
            os.replace(partial, path)
            return path
    raise FetchError(f"{url}: could not be downloaded: {problem}")


def _continue(url: str, partial: str, progress: Progress | None) -> str | None:
    """Downloads what is missing; returns the hex MD5 that the server states, if it does."""
    have = os.path.getsize(partial) if os.path.exists(partial) else 0
    request = urllib.request.Request(url)
    etag = _read(partial + ".etag")
    if have and etag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag)
    else:
        have = 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.status != 206:
            have = 0
        with open(partial + ".etag", "w", encoding="ascii") as file:
            file.write(answer.headers.get("ETag", ""))
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(partial, "ab" if have else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, total)
        if total is not None and have != total:
            raise ConnectionError(f"the connection ended after {have} of {total} bytes")
        for item in (answer.headers.get("x-goog-hash") or "").split(","):
            name, _, value = item.strip().partition("=")
            if name == "md5":
                return base64.b64decode(value).hex()
    return None


def digest_like(path: str, expected: str) -> tuple[str, str]:
    """A file's digest by the algorithm of another one: its name, and hex. Raises FetchError."""
    name = _ALGORITHMS.get(len(expected))
    if name is None:
        raise FetchError(f"{expected!r} is no MD5, SHA-1, SHA-256 or SHA-512 in hex")
    digest = hashlib.new(name.replace("-", ""), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return name, digest.hexdigest()


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _forget(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
