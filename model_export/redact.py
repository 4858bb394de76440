"""Keeps secrets out of what people, logs and tables get to see."""

from __future__ import annotations

import re

_HIDDEN = "[redacted]"
_SECRETS = [
    # The query of a web address may be its signature; names and passwords in front of a host.
    (re.compile(r"(https?://[^\s?#\"'<>]+)\?[^\s\"'<>]*"), rf"\1?{_HIDDEN}"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"']+@", re.I), rf"\1{_HIDDEN}@"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*KEY-----|\Z)", re.S),
        _HIDDEN,
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.I), rf"\1 {_HIDDEN}"),
    # Access tokens and keys by their shapes: JSON web tokens, Google, Amazon, GitHub.
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), _HIDDEN),
    (re.compile(r"\b(ya29\.[\w-]+|AIza[\w-]{30,}|AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,})"), _HIDDEN),
    (
        re.compile(
            r"((?:password|passwd|secret|token|api_?key|access_?key|private_?key|credentials?"
            r"|x-goog-signature|x-amz-signature|signature)[\"']?\s*[=:]\s*[\"']?)[^\s\"',&;)]+",
            re.I,
        ),
        rf"\1{_HIDDEN}",
    ),
]


def redact(text: str) -> str:
    """The text without credentials, tokens and the queries of signed web addresses."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
