"""What a host asks of programs: robots.txt, X-Robots-Tag, and when to come again."""

from __future__ import annotations

import collections
import email.utils
import math
import threading
import time
import urllib.robotparser
from collections.abc import Callable
from urllib.parse import urlsplit

from imagecensus.model_export.common.version import __version__

AGENT = "imagecensus"
USER_AGENT = f"{AGENT}/{__version__}"
_FORBIDDEN = {"noai", "noimageai", "noindex", "noimageindex", "none"}
_KEPT = 10_000  # hosts
_KEPT_SECONDS = 3600.0
_FAILURE_SECONDS = 60.0  # so long a host is not asked again

_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


class _Rules:
    """A host's robots.txt; the first thread reads it, the others wait."""

    def __init__(self) -> None:
        self.lock, self.until = threading.Lock(), -math.inf
        self.parser = urllib.robotparser.RobotFileParser()
        self.failure = ""

    def read(self, url: str, read: Callable[[str], str]) -> None:
        seconds, self.failure = _KEPT_SECONDS, ""
        self.parser = urllib.robotparser.RobotFileParser()
        try:
            self.parser.parse(read(url).splitlines())
        except OSError as error:
            said = error.strerror or error
            self.failure = f"the host's robots.txt cannot be read: {said}"
            seconds = _FAILURE_SECONDS
        self.until = time.monotonic() + seconds


_rules: collections.OrderedDict[str, _Rules] = collections.OrderedDict()
_lock = threading.Lock()


def forbidding_tag(values: list[str]) -> str:
    """The directive of X-Robots-Tag headers that asks programs like this one away; "": none.

    A directive may be for one program: `googlebot: noindex`.
    """
    for value in values:
        agent, colon, rest = value.partition(":")
        if colon and "," not in agent and agent.strip().lower() not in _VALUED:
            if agent.strip().lower() != AGENT:
                continue
            value = rest
        for directive in value.split(","):
            if directive.strip().lower() in _FORBIDDEN:
                return directive.strip().lower()
    return ""


def may_fetch(url: str, read: Callable[[str], str]) -> bool:
    """Whether the host's robots.txt lets this program read an address.

    Args:
      read: gives the text of an address, "" where there is none; raises OSError where that cannot
        be known.

    Raises:
      OSError: the host cannot be asked for its robots.txt, or could not within the last minute.
    """
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}"
    with _lock:
        rules = _rules.setdefault(host, _Rules())
        while len(_rules) > _KEPT:
            _rules.popitem(last=False)
    with rules.lock:
        if time.monotonic() > rules.until:
            rules.read(f"{host}/robots.txt", read)
    if rules.failure:
        raise OSError(5, rules.failure)
    return rules.parser.can_fetch(AGENT, url)


def forget() -> None:
    """As a new process: every robots.txt is read anew."""
    with _lock:
        _rules.clear()


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None where it asks nothing that can be read."""
    if not retry_after:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    moment = email.utils.parsedate_tz(retry_after)
    return max(0.0, email.utils.mktime_tz(moment) - time.time()) if moment else None
