"""One answer of a web address: retried, redirected within bounds, checked, never larger than asked.

Errors are those of files: FileNotFoundError, PermissionError, OSError; a page in the place of an
image and an answer that is too large have types of their own.
"""

from __future__ import annotations

import dataclasses
import errno
import random
import time
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import urllib3

from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.web import connections, manners, policy

_TRIES = 5
_ADDRESS_TRIES = 2  # where a host cannot be connected to
_REDIRECTS = 5
_CHUNK = 1 << 16
_ROBOTS_BYTES = 512 << 10
_PASSING = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_SAFE = "%/:=&?~#+!$,;'@()*[]"


class PageError(OSError):
    """A page for people came where an image was asked for."""


class TooLargeError(OSError):
    """The answer has more bytes than were asked for at most."""


class _TryAgainError(Exception):
    """Something that may pass; `seconds` as the server asked, or None."""

    def __init__(self, sentence: str, seconds: float | None = None, tries: int = _TRIES):
        super().__init__(sentence)
        self.seconds, self.tries = seconds, tries


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What came: `data` is empty where only the head was asked for."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    url: str  # after redirects


def fetch(
    url: str,
    max_bytes: int,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    heed_robots: bool = True,
) -> Answer:
    """Asks for an address until it answers, for at most `protocol.RETRY_SECONDS`.

    Args:
      max_bytes: of the body; what is longer is cut off.
      headers: sent with the request; `Authorization` only to the host of `url`.

    Raises:
      FileNotFoundError, PermissionError, TooLargeError, OSError: with the uri as file name.
    """
    until = time.monotonic() + protocol.RETRY_SECONDS
    pause = protocol.RETRY_PAUSE[0]
    tried = 0
    while True:
        tried += 1
        try:
            return _follow(
                url, max_bytes, method, dict(headers or {}), robots=heed_robots, until=until
            )
        except _TryAgainError as error:
            wait = pause * (0.5 + random.random()) if error.seconds is None else error.seconds
            if tried >= error.tries or time.monotonic() + wait > until:
                raise OSError(5, f"{error} (asked {tried} times)", url) from None
        except OSError as error:
            error.filename = url
            raise
        time.sleep(wait)
        pause = min(2 * pause, protocol.RETRY_PAUSE[1])


def _follow(
    url: str, max_bytes: int, method: str, headers: dict[str, str], *, robots: bool, until: float
) -> Answer:
    """The answer at the end of the redirects."""
    here = _encoded(url)
    for _ in range(_REDIRECTS + 1):
        if urlsplit(here).scheme not in ("http", "https"):
            raise OSError(93, f"it redirects to {urlsplit(here).scheme}://, which is not followed")
        heed = robots and not policy.current().ignore_robots
        if heed and not manners.may_fetch(here, _robots_text):
            raise PermissionError(
                13, "the host's robots.txt asks programs away; --ignore-robots reads it"
            )
        answer = _once(here, max_bytes, method, headers, until)
        target = answer.headers.get("Location")
        if answer.status not in (301, 302, 303, 307, 308) or not target:
            return answer
        following = _encoded(urljoin(here, target))
        if urlsplit(following).netloc != urlsplit(here).netloc:
            headers = {key: value for key, value in headers.items() if key != "Authorization"}
        here = following
    raise OSError(40, f"more than {_REDIRECTS} redirects")


def _robots_text(url: str) -> str:
    """A host's robots.txt; "" where it has none. Raises OSError where it cannot be known.

    RFC 9309: a host that answers 4xx has no rules, one that cannot be asked forbids all.
    """
    try:
        answer = fetch(url, _ROBOTS_BYTES, heed_robots=False)
    except (FileNotFoundError, PermissionError, TooLargeError):
        return ""
    except OSError as error:
        if error.errno == errno.EPROTO:
            return ""
        raise
    return answer.data.decode(errors="replace") if answer.status == 200 else ""


def _once(url: str, max_bytes: int, method: str, headers: dict[str, str], until: float) -> Answer:
    asked = {"User-Agent": manners.USER_AGENT, "Accept-Encoding": "identity", "Accept": "*/*"}
    try:
        response = connections.open_address(method, url, asked | headers)
        try:
            _judge(response)
            data = b"" if method == "HEAD" else _body(response, max_bytes, until)
            response.drain_conn()
        except BaseException:
            response.close()  # what is unread must not be taken for the next answer
            raise
        finally:
            response.release_conn()
    except (urllib3.exceptions.NameResolutionError, urllib3.exceptions.NewConnectionError) as error:
        raise _TryAgainError(_sentence(error), tries=_ADDRESS_TRIES) from None
    except urllib3.exceptions.ConnectTimeoutError as error:
        raise _TryAgainError(_sentence(error), tries=_ADDRESS_TRIES) from None
    except urllib3.exceptions.LocationValueError as error:
        raise OSError(22, f"not a web address: {_sentence(error)}") from None
    except connections.PrivateHostError as error:
        raise PermissionError(13, str(error)) from None
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _TryAgainError(_sentence(error)) from None
    return Answer(status=response.status, headers=response.headers, data=data, url=url)


def _judge(response: Any) -> None:
    """Raises what an answer's status and X-Robots-Tag say."""
    status, reason = response.status, f"the server answered {response.status}"
    if response.reason:
        reason += f" {response.reason}"
    if status in (404, 410):
        raise FileNotFoundError(2, reason)
    if status == 412:
        raise FileNotFoundError(2, "it was replaced after it was listed")
    if status in (401, 402, 403, 407, 451):
        raise PermissionError(13, reason)
    if status in _PASSING:
        raise _TryAgainError(reason, manners.seconds_to_wait(response.headers.get("Retry-After")))
    if status >= 400 and status != 416:
        raise OSError(errno.EPROTO, reason)
    tag = manners.forbidding_tag(response.headers.getlist("X-Robots-Tag"))
    if tag and not policy.current().ignore_robots:
        raise PermissionError(13, f"its X-Robots-Tag says {tag}; --ignore-robots reads it")


def _body(response: Any, max_bytes: int, until: float) -> bytes:
    """The body, whole; unpacked where the server packed it unasked. Raises TooLargeError."""
    stated = response.headers.get("Content-Length", "")
    if stated.isdigit() and int(stated) > max_bytes:
        raise TooLargeError(27, f"{int(stated):,} bytes")
    chunks, size = [], 0
    while chunk := response.read1(_CHUNK):  # what is there: a drip must not wait for a chunk
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(27, f"more than {max_bytes:,} bytes")
        if time.monotonic() > until:
            raise OSError(110, f"{size:,} bytes came within {protocol.RETRY_SECONDS:g} s")
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
        unpacked = zlib.decompressobj(47)  # either header
        try:
            data = unpacked.decompress(data, max_bytes + 1)
        except zlib.error as error:
            raise OSError(5, f"packed by its server, and damaged: {error}") from None
        if len(data) > max_bytes:
            raise TooLargeError(27, f"more than {max_bytes:,} bytes")
    return data


def _encoded(url: str) -> str:
    """An address as it is sent: without fragment, with everything but ASCII percent-encoded."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise OSError(22, f"not a web address: {error}") from None
    return urlunsplit(
        (parts.scheme.lower(), parts.netloc, quote(parts.path or "/", _SAFE),
         quote(parts.query, _SAFE), "")
    )  # fmt: skip


def _sentence(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "no such host"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return f"nothing came for {protocol.TIMEOUT[1]:g} s"
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        return "the connection ended before the whole file came"
    text = str(error)
    if text.startswith("<"):  # a connection's address in memory
        text = text.partition(": ")[2] or text
    return " ".join(text.split())[:200] or type(error).__name__
