"""Plots of an evaluation, as PNG files: of a training's, and of a finished table's."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no display where jobs run
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from imagecensus.model_export.common.plot_labels import begin_plot, plot_label

CLASSES_SHOWN = 20
_NAME_LENGTH = 24


def plot_evaluation(
    evaluation: dict[str, Any], confusion: list[dict[str, Any]]
) -> dict[str, bytes]:
    """The plots of an evaluation, by file name.

    Args:
      evaluation: what evaluation.json holds.
      confusion: (truth, label, count) of all pairs that occur.
    """
    begin_plot()
    labels = [row["label"] for row in evaluation["per_class"] if row["support"]]
    pairs = ((row["truth"], row["label"], row["count"]) for row in confusion)
    return {
        "confusion.png": plot_confusion(labels, pairs),
        "calibration.png": plot_calibration(evaluation["calibration"]),
        "coverage.png": plot_coverage(evaluation["coverage"]),
    }


def plot_confusion(labels: Sequence[str], pairs: Iterable[tuple[str, str, int]]) -> bytes:
    """The confusion matrix of the first classes; the others are one row, "other".

    Args:
      labels: the classes, most images first.
      pairs: (truth, label, count) of all pairs that occur.
    """
    shown = labels[:CLASSES_SHOWN]
    codes = {label: code for code, label in enumerate(shown)}
    other = len(shown)
    matrix = np.zeros((other + 1, other + 1), np.int64)
    for truth, label, count in pairs:
        matrix[codes.get(truth, other), codes.get(label, other)] += count
    if not matrix[other].any() and not matrix[:, other].any():
        matrix, names = matrix[:other, :other], list(shown)
    else:
        names = [*shown, "other"]
    names = [plot_label(name, _NAME_LENGTH) for name in names]
    side = 3.2 + 0.36 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    display = ConfusionMatrixDisplay(matrix, display_labels=names)
    display.plot(ax=axes, cmap="Blues", colorbar=False, xticks_rotation=90, values_format=",d")
    axes.set(xlabel="predicted", ylabel="true")
    return png(figure)


def plot_calibration(calibration: dict[str, Any]) -> bytes:
    """The reliability curve above the number of images in each bin."""
    bins = calibration["bins"]
    figure = Figure(figsize=(5, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    means, hits = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    upper.plot(means, hits, marker="o", label=f"model (error {calibration['ece']:.3f})")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="upper left")
    left, width = [row["from"] for row in bins], [row["to"] - row["from"] for row in bins]
    lower.bar(left, [row["count"] for row in bins], width, align="edge", edgecolor="white")
    lower.set(xlabel="score", ylabel="images")
    return png(figure)


def plot_coverage(coverage: list[dict[str, Any]]) -> bytes:
    """What a threshold on the score costs (rows kept) and buys (accuracy of those)."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    thresholds = [row["threshold"] for row in coverage]
    axes.plot(thresholds, [row["coverage"] for row in coverage], label="share of rows kept")
    axes.plot(
        thresholds,
        [np.nan if row["accuracy"] is None else row["accuracy"] for row in coverage],
        label="accuracy of the rows kept",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="rows with a score of at least")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return png(figure)


def png(figure: Figure) -> bytes:
    """A figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
