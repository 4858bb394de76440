"""A faster version of a model in lower precision: where it lies, what it costs, and its proof.

A model folder may hold `assets.extra/int8`: the same network with 8-bit arithmetic, as OpenVINO
reads it, and the answers that it gave to the golden images when it was made. The model's digest
covers both. What it loses was measured on images that it was not calibrated on, and stands in the
contract under `metrics.int8`. Reading it needs neither nncf nor TensorFlow; `quantize` makes it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.intervals import Z95, wilson
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.contract import EXTRA, Contract, Golden, ModelError, read_golden

F32, BF16, INT8 = "f32", "bf16", "int8"
INT8_FOLDER = os.path.join(EXTRA, "int8")
INT8_GRAPH = "graph.xml"
INT8_GOLDEN = "golden.npz"
# Processors round 8-bit arithmetic differently. A class may differ by this from its golden score.
LOW_PRECISION_TOLERANCE = 0.05
MAX_LOSS = 0.005  # of accuracy, that `auto` takes
MIN_MEASURED = 100  # images; fewer say nothing about half a point


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """What int8 answers lose against float32, measured on one set of images.

    Attributes:
      images: how many.
      agreement, agreement_interval: share of equal labels, and its 95 % interval (Wilson's).
      expected_loss, expected_loss_interval: accuracy lost if float32's scores are the chances
        that its classes are right: the mean, over images, of its score for its own label less its
        score for int8's label. 95 % interval. Needs no true labels, and is narrow.
      accuracy_f32, accuracy_int8: with true labels; else None.
    """

    images: int
    agreement: float
    agreement_interval: tuple[float, float]
    expected_loss: float
    expected_loss_interval: tuple[float, float]
    accuracy_f32: float | None = None
    accuracy_int8: float | None = None


def measure_loss(
    f32: tuple[NDArray[np.int32], NDArray[np.float32]],
    int8: tuple[NDArray[np.int32], NDArray[np.float32]],
    truth: NDArray[np.int64] | None = None,
) -> Loss:
    """Compares the answers of both precisions to the same N images.

    Args:
      f32, int8: class ids int32 [N, K] and scores float32 [N, K], best first.
      truth: class ids int [N], -1 where unknown; None: nothing is known.
    """
    ids, scores = f32
    other = int8[0][:, 0]
    count = len(ids)
    same = ids[:, 0] == other
    # A class that is not among float32's best K has a score of at least 0: the loss is bounded.
    of_other = np.where(ids == other[:, None], scores, 0.0).max(1)
    lost = np.where(same, 0.0, scores[:, 0] - of_other).astype(np.float64)
    mean = float(lost.mean())
    half = Z95 * float(lost.std()) / math.sqrt(count)
    known = np.zeros(count, bool) if truth is None else truth >= 0
    accuracy: tuple[float | None, float | None] = (None, None)
    if truth is not None and known.any():
        accuracy = (
            float((ids[known, 0] == truth[known]).mean()),
            float((other[known] == truth[known]).mean()),
        )
    low, high = wilson(int(same.sum()), count)
    return Loss(
        images=count,
        agreement=float(same.mean()),
        agreement_interval=(float(low), float(high)),
        expected_loss=mean,
        expected_loss_interval=(max(0.0, mean - half), mean + half),
        accuracy_f32=accuracy[0],
        accuracy_int8=accuracy[1],
    )


def has_int8(directory: str) -> bool:
    """Whether a model folder carries an int8 graph."""
    return os.path.isfile(int8_graph(directory))


def int8_graph(directory: str) -> str:
    """The file that OpenVINO reads."""
    return os.path.join(directory, INT8_FOLDER, INT8_GRAPH)


def judge_int8(contract: Contract) -> tuple[bool, str]:
    """Whether what was measured allows int8 to take float32's place, and why, for people."""
    figures: dict[str, Any] = contract.metrics.get(INT8) or {}
    try:
        images = int(figures["images"])
        upper = float(figures["expected_loss_interval"][1])
        before, after = figures.get("accuracy_f32"), figures.get("accuracy_int8")
        lost = None if before is None or after is None else float(before) - float(after)
    except (KeyError, TypeError, ValueError, IndexError):
        return False, "what int8 loses was not measured"
    if images < MIN_MEASURED:
        return (
            False,
            f"int8 was measured on {counted(images, 'image')} only, fewer than {MIN_MEASURED}",
        )
    text = (
        f"expected loss of accuracy at most {upper * 100:.2f} points on {counted(images, 'image')}"
    )
    if lost is not None:
        text += f", measured {lost * 100:+.2f}"
    allowed = upper <= MAX_LOSS and (lost is None or lost <= MAX_LOSS)
    return allowed, f"{text} (limit {MAX_LOSS * 100:g})"


def read_golden_of(directory: str, precision: str) -> Golden:
    """The golden images with the answers of a precision. Raises ModelError."""
    golden = read_golden(directory)
    if precision != INT8:
        return golden
    path = os.path.join(directory, INT8_FOLDER, INT8_GOLDEN)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dataclasses.replace(
                golden, class_ids=arrays["class_ids"], scores=arrays["scores"]
            )
    except Exception as error:  # a damaged zip raises a dozen types; nothing is unpickled
        raise ModelError(
            f"{path}: cannot be read: {error}; quantize the model again, or use --precision=f32"
        ) from None


def check_golden(
    golden: Golden,
    class_ids: NDArray[np.int32],
    scores: NDArray[np.float32],
    who: str,
    precision: str,
) -> None:
    """Raises ModelError where answers differ from the recorded ones by more than is due.

    float32 must reproduce them; in lower precision each class that either names may have another
    score within `LOW_PRECISION_TOLERANCE`, whatever its place.
    """
    if precision == F32:
        golden.check(class_ids, scores, who)
        return
    try:
        golden.check(class_ids, scores, f"{who} in {precision}", LOW_PRECISION_TOLERANCE)
    except ModelError as error:
        raise ModelError(f"{error}; or use --precision=f32 on this processor") from None
