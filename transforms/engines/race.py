"""What is chosen by measurement on the machine that does the work: measured once, then kept."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imagecensus.model_export.common.atomic import atomic_path
from imagecensus.model_export.common.cache import cache_path
from imagecensus.model_export.contract import Infer, Pixels

_ROUNDS = 3


def race(infer: Sequence[Infer], pixels: Pixels) -> list[float]:
    """Images/s of each function on the same uint8 [N, H, W, 3], in turn; medians of rounds."""
    for one in infer:
        one(pixels[:8])
    seconds: list[list[float]] = [[] for _ in infer]
    for _ in range(_ROUNDS):
        for one, spent in zip(infer, seconds, strict=True):
            start = time.perf_counter()
            one(pixels)
            spent.append(time.perf_counter() - start)
    return [len(pixels) / float(np.median(spent)) for spent in seconds]


def repeated(images: Pixels, count: int) -> Pixels:
    """`count` images: these, again and again."""
    return images[np.arange(count) % len(images)]


def kept(path: tuple[str, ...], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` found, now or in an earlier process.

    Args:
      path: of a JSON file below the cache folder. Where it cannot be written, the next process
        measures again.
      measure: returns what JSON can hold, always with the same keys.
    """
    where = cache_path(*path)
    try:
        with open(where, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError):
        found = measure()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(where), exist_ok=True)
        with atomic_path(where) as partial, open(partial, "w", encoding="utf-8") as file:
            json.dump(found, file)
    return found
