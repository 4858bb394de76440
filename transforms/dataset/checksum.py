"""Parquet files with a checksum of the whole file inside, so that damage is found before parsing.

Checksums of pages do not cover footers and headers, and a flipped bit there can make Arrow's reader
abort the process (found by fuzzing) instead of raising. The checksum is an entry of the footer's
metadata: the sha256 of the file with the checksum's own digits as zeros. Other readers ignore it.
"""

from __future__ import annotations

import hashlib

KEY = b"imagecensus.sha256"
EMPTY = b"0" * 64
# As Thrift writes it: the key, the next field's header, the value's length, the value.
_MARK = KEY + b"\x18\x40"


class DamagedError(ValueError):
    """The bytes are not those that were written."""


def add_checksum(data: bytes) -> bytes:
    """Fills in the checksum of a file whose metadata has `{KEY: EMPTY}`."""
    at = data.rindex(_MARK) + len(_MARK)
    if data[at : at + 64] != EMPTY:
        raise ValueError("the metadata has no empty checksum")
    return b"".join([data[:at], hashlib.sha256(data).hexdigest().encode(), data[at + 64 :]])


def check(data: bytes) -> bytes:
    """The data, as it was written.

    Raises:
      DamagedError: there is no checksum, or it is another's.
    """
    at = data.rfind(_MARK) + len(_MARK)
    if at < len(_MARK):
        raise DamagedError("the file is cut short or damaged: it has no checksum")
    digest = hashlib.sha256(data[:at])
    digest.update(EMPTY)
    digest.update(data[at + 64 :])
    if digest.hexdigest().encode() != data[at : at + 64]:
        raise DamagedError("the file is damaged: its checksum does not fit")
    return data
