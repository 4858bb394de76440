"""One listed image, and how much may be spent on it. Light: options import it, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from imagecensus.model_export.limits import MAX_PIXELS, MAX_SIDE

MAX_BYTES = 1 << 30
DECODE_SECONDS = 60
DECODE_MEMORY = 4 << 30


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """Where an image is, as listed.

    Attributes:
      uri: a local path, `file://` uri or uri of a store; of a member, its archive's and its name.
      size: bytes as listed, or -1.
      etag: an object's version or a file's mtime, as listed; "": whatever is there now.
      container: the archive that holds the image; None: the uri is a file of its own.
      member: where in it, as JSON (`archives.members.Member.where`).
    """

    uri: str
    size: int = -1
    etag: str = ""
    container: str | None = None
    member: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ImageRef:
        """The image of a row with the columns of `records.REF_SCHEMA`."""
        return cls(
            uri=row["uri"], size=row["size"], etag=row["etag_or_mtime"],
            container=row["container"], member=row["member"],
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one image may cost; beyond it the image is a failed row.

    Attributes:
      max_pixels, max_side: width x height and the longer side, in pixels, as stored.
      max_bytes: of the file.
      decode_seconds: of wall clock, from the moment the decoder begins with it.
      decode_memory: bytes of address space of the process that decodes.
    """

    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE
    max_bytes: int = MAX_BYTES
    decode_seconds: float = DECODE_SECONDS
    decode_memory: int = DECODE_MEMORY
