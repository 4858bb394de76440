"""Addresses of IIIF Image API servers: asking for the size that a model needs.

`BASE/REGION/SIZE/ROTATION/QUALITY.FORMAT`, or `BASE/info.json`: https://iiif.io/api/image/3.0/.
"""

from __future__ import annotations

import re

_WHOLE = re.compile(
    r"(?P<base>https?://[^?#]+)/full/(?P<size>full|max)/(?P<rest>0/(?:default|native|color)\.\w{3,4})"
)
_INFO = re.compile(r"(?P<base>https?://[^?#]+)/info\.json")
_SIZED = re.compile(r"(?P<base>https?://[^?#]+)/full/!\d+,\d+/(?P<rest>0/\w+\.\w{3,4})")


def sized(uri: str, side: int) -> str:
    """The address of the whole image with no side longer than `side`; others stay as they are.

    Args:
      side: pixels; 0: the image as large as the server gives it.
    """
    info = _INFO.fullmatch(uri)
    if info:
        uri = f"{info['base']}/full/max/0/default.jpg"
    whole = _WHOLE.fullmatch(uri)
    if whole and side:
        return f"{whole['base']}/full/!{side},{side}/{whole['rest']}"
    return uri


def unsized(uri: str) -> str:
    """Where a server that makes no such size may have the image; "" for other addresses."""
    found = _SIZED.fullmatch(uri)
    whole = _WHOLE.fullmatch(uri)
    if found:
        return f"{found['base']}/full/max/{found['rest']}"
    if whole and whole["size"] == "max":  # the word of versions 2.1 and 3; before, it was full
        return f"{whole['base']}/full/full/{whole['rest']}"
    return ""
