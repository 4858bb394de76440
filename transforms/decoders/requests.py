"""What is asked of a decoder process, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from imagecensus.model_export.preprocess import ImageInfo
from imagecensus.transforms.image_ref import ImageRef

# An archive and a part of it that is read front to back; a row of that part.
Place = tuple[tuple[str, int], int]


class ReaderDied(Exception):
    """A child died over a question about an archive. The message says of what."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of a request.

    Attributes:
      info: of an image that was decoded.
      data: bytes, where those were asked for.
      error: why there is neither.
      size: bytes of the image file, where it was read.
      xxh128: of those bytes, where asked for.
      spent: "read" and "decode" to (wall seconds, CPU seconds of the child).
    """

    info: ImageInfo | None = None
    data: bytes | None = None
    error: Exception | None = None
    size: int | None = None
    xxh128: str | None = None
    spent: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True, eq=False, slots=True)
class Request:
    """One thing asked of a child. `done` is called with the answer, in a thread of the pool.

    Attributes:
      call: "decode", "read", or a function of `archives.listing`.
      seconds: that it may take, of wall clock; 0: as long as it likes.
      ref: what is to be read. With `data`: its record of an archive, to be unpacked.
      data: the file, where it was read already.
      out: uint8 [height, width, 3] that takes the pixels.
      config: from `pool.decode_config`.
    """

    call: str
    done: Callable[[Answer], None]
    seconds: float
    ref: ImageRef | None = None
    data: bytes | None = None
    out: np.ndarray | None = None
    config: str = ""
    max_bytes: int = 0
    arguments: tuple[Any, ...] = ()
    pin: str = ""  # what must be asked of one and the same child, in order
    place: Place | None = None  # of what is read front to back: nothing after a crash is tried
    held: int = 0  # bytes of `Pool.hold`, given back once it is answered
    number: int = 0  # of its sending
    pixels: int = 0  # where in shared memory

    @property
    def subject(self) -> str:
        return self.ref.uri if self.ref else str(self.arguments[:1] or "an image")
