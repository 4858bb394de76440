"""The report of a training: one self-contained HTML page, and its plots as PNGs beside it."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from imagecensus.model_export.common.plot_labels import begin_plot, plot_label
from imagecensus.model_export.contract import Contract
from imagecensus.model_export.training import evaluation
from imagecensus.model_export.training.decoded_images import Broken, Images
from imagecensus.model_export.training.metrics import measure_calibration
from imagecensus.model_export.training.plots import plot_calibration, plot_confusion, png

MISTAKES = 24
_MISTAKES_A_ROW = 6
_THUMBNAIL = 160
_NAMED_CLASSES = 30  # more labels than this do not fit an axis
_NAME_LENGTH = 21
_BLUE, _RED, _GREY = "#3f74b5", "#b3402e", "#9aa5b1"


def write_training_report(
    folder: str,
    *,
    contract: Contract,
    history: list[dict[str, Any]],
    split_name: str,
    images: Images,
    probabilities: np.ndarray,
    broken: Sequence[Broken],
    seconds: dict[str, float],
) -> str:
    """Writes `report.html` and `plots/*.png`.

    Args:
      folder: where to.
      contract: of the exported model: labels, metrics, provenance.
      history: an entry per epoch, as `fit` returns them, each with its phase.
      split_name: of the images shown, "test" where there is one.
      images, probabilities: of that split; float32 [N, classes].
      broken: images left out.
      seconds: by step.

    Returns:
      The path of the page.
    """
    begin_plot()
    mistakes = worst_mistakes(contract.labels, images, probabilities)
    plots = {
        "curves": _curves(history),
        "confusion": _confusion(contract.labels, probabilities, images.labels),
        "per_class": _per_class(contract.labels, probabilities, images.labels),
        "calibration": plot_calibration(
            measure_calibration(probabilities.argmax(1) == images.labels, probabilities.max(1))
        ),
        "worst_mistakes": _mistakes(mistakes, images),
    }
    os.makedirs(os.path.join(folder, "plots"), exist_ok=True)
    for name, plot in plots.items():
        with open(os.path.join(folder, "plots", f"{name}.png"), "wb") as file:
            file.write(plot)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = evaluation.per_class(probabilities, images.labels)
    rows = [
        {"label": label, **{name: values[i] for name, values in figures.items()}}
        for i, label in enumerate(contract.labels)
    ]
    page = environment.get_template("report.html.j2").render(
        contract=contract,
        metrics={k: v for k, v in contract.metrics.items() if v.get("examples")},
        proof=contract.metrics.get("export"),
        split=split_name,
        shown=contract.metrics[split_name],
        epochs=len(history),
        plots={name: _data_uri("png", plot) for name, plot in plots.items()},
        mistakes=[
            {**item, "src": _data_uri("jpeg", _thumbnail(images, item["index"]))}
            for item in mistakes
        ],
        classes=sorted(rows, key=lambda row: row["f1"]),
        broken=broken,
        seconds=seconds,
        training=json.dumps(contract.training, indent=1),
    )
    path = os.path.join(folder, "report.html")
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)
    return path


def worst_mistakes(
    labels: Sequence[str], images: Images, probabilities: np.ndarray, limit: int = MISTAKES
) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of, surest first.

    Returns:
      Dicts: index (of the image), name, label (true), predicted, score.
    """
    answered = probabilities.argmax(1)
    wrong = np.flatnonzero(answered != images.labels)
    worst = wrong[np.argsort(-probabilities[wrong, answered[wrong]], kind="stable")][:limit]
    return [
        {
            "index": int(i),
            "name": images.names[i],
            "label": labels[images.labels[i]],
            "predicted": labels[answered[i]],
            "score": float(probabilities[i, answered[i]]),
        }
        for i in worst
    ]


def _thumbnail(images: Images, index: int) -> bytes:
    image = Image.fromarray(images.take(np.asarray([index]))[0])
    resampling = Image.Resampling.NEAREST if image.width < 64 else Image.Resampling.BILINEAR
    buffer = io.BytesIO()
    image.resize((_THUMBNAIL, _THUMBNAIL), resampling).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curves(history: list[dict[str, Any]]) -> bytes:
    figure, axes = _figure(10, 3.6, 2)
    epochs = np.arange(1, len(history) + 1)
    starts = [i for i in range(1, len(history)) if history[i]["phase"] != history[i - 1]["phase"]]
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        axis.plot(epochs, [entry[name] for entry in history], color=_BLUE, label="training")
        if "val_loss" in history[0]:
            values = [entry[f"val_{name}"] for entry in history]
            axis.plot(epochs, values, color=_RED, label="validation")
        for start in starts:
            axis.axvline(start + 0.5, color=_GREY, linestyle=":")
            right = 2 * start < len(history)  # of the line, unless that leaves the plot
            axis.annotate(
                f" {history[start]['phase']} ",
                (start + 0.5, 0.5),
                xycoords=("data", "axes fraction"),
                ha="left" if right else "right",
            )
        axis.set(xlabel="epoch", title=name)
        axis.set_ylim(bottom=0, top=1.02 if name == "accuracy" else None)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    return png(figure)


def _confusion(labels: Sequence[str], probabilities: np.ndarray, true: np.ndarray) -> bytes:
    matrix = evaluation.confusion(probabilities, true)
    most = np.argsort(-matrix.sum(1), kind="stable")
    pairs = ((labels[i], labels[j], int(matrix[i, j])) for i, j in np.argwhere(matrix))
    return plot_confusion([labels[i] for i in most], pairs)


def _per_class(labels: Sequence[str], probabilities: np.ndarray, true: np.ndarray) -> bytes:
    figures = evaluation.per_class(probabilities, true)
    order = np.argsort(-figures["f1"], kind="stable")[-_NAMED_CLASSES:]
    figure, axis = _figure(8, 1.2 + 0.34 * len(order))
    place = np.arange(len(order))
    axis.barh(place - 0.2, figures["precision"][order], 0.38, color=_BLUE, label="precision")
    axis.barh(place + 0.2, figures["recall"][order], 0.38, color=_RED, label="recall")
    axis.set_yticks(place, [plot_label(labels[i], _NAME_LENGTH) for i in order])
    axis.set(xlim=(0, 1))
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return png(figure)


def _mistakes(mistakes: list[dict[str, Any]], images: Images) -> bytes:
    rows = max(1, -(-len(mistakes) // _MISTAKES_A_ROW))
    figure, axes = _figure(1.6 * _MISTAKES_A_ROW, 2.1 * rows, _MISTAKES_A_ROW, rows)
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, item in zip(np.ravel(axes), mistakes, strict=False):
        axis.imshow(images.take(np.asarray([item["index"]]))[0])
        said, true = (
            plot_label(item["predicted"], _NAME_LENGTH),
            plot_label(item["label"], _NAME_LENGTH),
        )
        axis.set_title(f"{said} {item['score']:.2f}\nis {true}", fontsize=7)
    if not mistakes:
        figure.text(0.5, 0.5, "no mistakes", ha="center", va="center")
    return png(figure)
