"""What the doctor says of one thing that it looked at."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing looked at. `level` is "ok", "warn" or "fail"; `remedy` is empty for "ok"."""

    level: str
    check: str
    detail: str
    remedy: str = ""
