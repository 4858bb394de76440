"""Keeps secrets out of what people, logs and tables get to see."""

from __future__ import annotations

import re
import typing

if typing.TYPE_CHECKING:
    import pyarrow as pa

_HIDDEN = "[redacted]"
# A query that signs, of a web address; more reserved than below, as people's own data is changed.
_SIGNED = (
    r"(https?://[^\s?#\"'<>]+)\?[^\s\"'<>]*?(?i:signature|x-amz-|x-goog-|\bsig=|token|secret|passw"
    r"|credential|api_?key|access_?key|\bkey=)[^\s\"'<>]*"
)
_SECRET_PARAMETER = re.compile(
    r"[^=]*(?:signature|token|secret|passw|credential|api_?key|access_?key)[^=]*=|(?:sig|key|auth)=",
    re.I,
)
# Any scheme but abfs:// and abfss://, where a container's name stands in front of the host; said
# without looking ahead, which Arrow's dialect cannot.
_SCHEME = (
    r"\b(?:[b-z][a-z0-9+.-]*|a(?:[ac-z0-9+.-][a-z0-9+.-]*)?|ab(?:[a-eg-z0-9+.-][a-z0-9+.-]*)?)://"
)
_NAMED = rf"(?i)({_SCHEME})[^\s/@\"']+@"  # names and passwords in front of a host
_PASSWORD = r"(?i)(\babfss?://)[^\s/@:\"']*:[^\s/@\"']*@"
_KEYS = r"\b(?:ya29\.[\w-]+|AIza[\w-]{30,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{30,}|hf_\w{30,})"
_DATA_SECRETS = [  # pattern, replacement: in the dialect that Arrow and Python have in common
    (_SIGNED, rf"\1?{_HIDDEN}"),
    (_NAMED, rf"\1{_HIDDEN}@"),
    (_PASSWORD, rf"\1{_HIDDEN}@"),
    (r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\z)", _HIDDEN),
    (r"\beyJ[\w-]+\.[\w-]+\.[\w-]*", _HIDDEN),
    (_KEYS, _HIDDEN),
]
_MAY_HOLD = r"://|PRIVATE KEY|eyJ|ya29|AIza|AKIA|ASIA|gh[pousr]_|hf_"
_SECRETS = [
    # The query of a web address may be its signature; names and passwords in front of a host.
    (re.compile(r"(https?://[^\s?#\"'<>]+)\?[^\s\"'<>]*"), rf"\1?{_HIDDEN}"),
    (re.compile(_NAMED), rf"\1{_HIDDEN}@"),
    (re.compile(_PASSWORD), rf"\1{_HIDDEN}@"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*KEY-----|\Z)", re.S),
        _HIDDEN,
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.I), rf"\1 {_HIDDEN}"),
    # Access tokens and keys by their shapes: JSON web tokens, Google, Amazon, GitHub.
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), _HIDDEN),
    (re.compile(_KEYS), _HIDDEN),
    (
        re.compile(
            r"((?:password|passwd|secret|token|api_?key|access_?key|account_?key|private_?key|credentials?"
            r"|x-goog-signature|x-amz-signature|signature|\bsig)[\"']?\s*[=:]\s*[\"']?)[^\s\"',&;)]+",
            re.I,
        ),
        rf"\1{_HIDDEN}",
    ),
]


def redact_column(values: pa.Array) -> pa.Array:
    """A column of people's own data without signed queries, credentials and keys.

    Text that merely talks of tokens and passwords stays, unlike in `redact`: it may be a caption.
    Columns within columns are looked through, too. The type stays.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(values.type):
        return pa.array(_redact_nested(values.to_pylist()), values.type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return values
    if not pc.any(pc.match_substring_regex(values, _MAY_HOLD)).as_py():
        return values
    for pattern, replacement in _DATA_SECRETS:
        values = pc.replace_substring_regex(values, pattern, replacement)
    return values


def _redact_nested(value: typing.Any) -> typing.Any:
    import pyarrow as pa

    if isinstance(value, dict):
        return {key: _redact_nested(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_redact_nested, value))
    return redact_column(pa.array([value]))[0].as_py() if isinstance(value, str) else value


def redact_address(url: str) -> str:
    """A web address without what only its owner may know; the rest, and so its identity, stays."""
    url = re.sub(r"(://)[^\s/@?#]+@", rf"\1{_HIDDEN}@", url, count=1)
    address, mark, query = url.partition("?")
    parts = [
        f"{part.partition('=')[0]}={_HIDDEN}" if _SECRET_PARAMETER.match(part) else part
        for part in query.split("&")
    ]
    return address + mark + "&".join(parts)


def redact(text: str) -> str:
    """The text without credentials, tokens and the queries of signed web addresses."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
