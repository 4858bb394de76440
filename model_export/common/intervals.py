"""Confidence intervals of shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054  # standard deviations to either side that hold 95 %


def wilson(hits: ArrayLike, count: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % Wilson score interval of hits/count; [0, 1] where count is 0."""
    hits, count = np.asarray(hits, np.float64), np.asarray(count, np.float64)
    safe = np.maximum(count, 1)
    share = hits / safe
    spread = Z95 * np.sqrt(share * (1 - share) / safe + Z95**2 / (4 * safe**2))
    scale = 1 + Z95**2 / safe
    middle = share + Z95**2 / (2 * safe)
    low = np.where(count > 0, np.clip((middle - spread) / scale, 0, 1), 0.0)
    high = np.where(count > 0, np.clip((middle + spread) / scale, 0, 1), 1.0)
    return low, high
