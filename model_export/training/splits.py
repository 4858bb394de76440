"""Splits of labelled images: their names, and which images each has, not yet read."""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.preprocess import PreprocessSpec, decode_image

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


class DataError(UserError):
    """The training data cannot be used. The message names the folder, file or class."""


Decode = Callable[[bytes, PreprocessSpec, NDArray[np.uint8]], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Images of one split, not yet read.

    Attributes:
      names: one per image: its path, or its key in the dataset.
      labels: int32 [N], class ids.
      open: starts a pass over the images in order; each item returns the file's bytes when
        called (and raises OSError where it cannot), in any order and again and again, so that
        threads can do the reading.
      decode: makes pixels of the bytes, as `decode_image` does; called from many threads.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    open: Callable[[], Iterable[Callable[[], bytes]]]
    decode: Decode = decode_image

    def __len__(self) -> int:
        return len(self.names)


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def uri_of_name(name: str) -> str:
    """As the batch job writes it: the path, or a file uri where it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote(os.fsencode(name))
    return name
