"""Sizes, durations and counts for people, in one form everywhere."""

from __future__ import annotations

import humanize


def format_size(count: float) -> str:
    """A number of bytes, as "1.5 GiB"."""
    return humanize.naturalsize(count, binary=True)


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things, as "1 image" or "1,234 images".

    Args:
      noun: for one of them; what is counted may follow its adjective ("exact copy").
      plural: for others; empty: the noun and an s.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def format_duration(seconds: float) -> str:
    """A number of seconds, as "12.3 s", "4 min" or "2 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
