"""The figures of an evaluation, from plain arrays.

N rows have a truth and a prediction; classes are codes 0 to C-1. Every array is O(N) or O(C):
a million rows of a thousand classes fit in some tens of megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_fscore_support

from imagecensus.model_export.common.intervals import wilson

CALIBRATION_BINS = 15
COVERAGE_STEPS = 100

Codes = NDArray[np.integer[Any]]
Scores = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]


def measure(
    truth: Codes, predicted: Codes, *, score: Scores, rank: Codes, labels: Sequence[str], top_k: int
) -> dict[str, Any]:
    """All figures of an evaluation, ready for JSON.

    Args:
      truth, predicted: int [N], codes of `labels`.
      score: float [N], the predicted label's.
      rank: int [N], where the truth stands among the model's answers, from 1; 0: nowhere.
      labels: C names.
      top_k: how many answers each row holds.
    """
    correct = truth == predicted
    average = {
        kind: dict(
            zip(
                ("precision", "recall", "f1"),
                map(float, _scores(truth, predicted, None, average=kind)[:3]),
                strict=True,
            )
        )
        for kind in ("macro", "weighted")
    }
    within = [int(((rank > 0) & (rank <= k)).sum()) for k in range(1, top_k + 1)]
    return {
        "accuracy": _share(int(correct.sum()), len(truth)),
        "top_k_accuracy": {
            str(k): _share(hits, len(truth)) for k, hits in enumerate(within, start=1)
        },
        "average": average,
        "per_class": measure_classes(truth, predicted, labels),
        "calibration": measure_calibration(correct, score),
        "coverage": measure_coverage(correct, score),
    }


def measure_classes(truth: Codes, predicted: Codes, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 with their 95 % intervals, for each class that occurs.

    An interval is Wilson's. F1 is 2J/(1+J) of the share J = tp/(tp+fp+fn), which is a
    proportion too, so its interval is that of J, carried over.
    """
    classes = np.arange(len(labels))
    precision, recall, f1, support = _scores(truth, predicted, classes, average=None)
    named = np.bincount(predicted, minlength=len(labels))
    hits = np.bincount(truth[truth == predicted], minlength=len(labels))
    either = support + named - hits
    intervals = {
        "precision": wilson(hits, named),
        "recall": wilson(hits, support),
        "f1": tuple(2 * bound / (1 + bound) for bound in wilson(hits, either)),
    }
    rows = []
    for index in np.flatnonzero(either):
        row: dict[str, Any] = {
            "label": labels[int(index)],
            "support": int(support[index]),
            "named": int(named[index]),
        }
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            low, high = intervals[name]
            # A class that was never named has no precision: undefined, which is not zero.
            known = {"precision": named, "recall": support, "f1": either}[name][index] > 0
            row[name] = float(values[index]) if known else None
            row[f"{name}_low"] = float(low[index]) if known else None
            row[f"{name}_high"] = float(high[index]) if known else None
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["support"], row["label"]))


def measure_calibration(correct: Flags, score: Scores) -> dict[str, Any]:
    """Expected calibration error and the reliability curve, over equal bins of the score."""
    score = np.clip(score.astype(np.float64), 0.0, 1.0)
    accuracy, confidence = calibration_curve(
        correct, score, n_bins=CALIBRATION_BINS, pos_label=True
    )
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], score), minlength=CALIBRATION_BINS)
    filled = np.flatnonzero(counts)
    error = float((counts[filled] / len(score) * np.abs(accuracy - confidence)).sum())
    return {
        "ece": error,
        "bins": [
            {
                "from": float(edges[index]),
                "to": float(edges[index + 1]),
                "count": int(counts[index]),
                "confidence": float(mean),
                "accuracy": float(hit),
            }
            for index, mean, hit in zip(filled, confidence, accuracy, strict=True)
        ],
    }


def measure_coverage(correct: Flags, score: Scores) -> list[dict[str, Any]]:
    """For thresholds from 0 to 0.99: share of rows at or above it, and their accuracy."""
    order = np.argsort(score, kind="stable")
    sorted_score = score[order]
    hits_from = np.append(np.cumsum(correct[order][::-1])[::-1], 0)
    curve = []
    for step in range(COVERAGE_STEPS):
        threshold = step / COVERAGE_STEPS
        first = int(np.searchsorted(sorted_score, np.float32(threshold), side="left"))
        kept = len(score) - first
        curve.append(
            {
                "threshold": threshold,
                "coverage": kept / len(score),
                "accuracy": float(hits_from[first] / kept) if kept else None,
            }
        )
    return curve


def _share(hits: int, count: int) -> dict[str, float]:
    low, high = wilson(hits, count)
    return {"value": hits / count, "low": float(low), "high": float(high)}


def _scores(
    truth: Codes,
    predicted: Codes,
    classes: NDArray[np.intp] | None,
    average: Literal["macro", "weighted"] | None,
) -> Any:
    """Precision, recall, F1 and support: an array each, or with an average a number each."""
    return precision_recall_fscore_support(
        truth, predicted, labels=classes, average=average, zero_division=0.0
    )
