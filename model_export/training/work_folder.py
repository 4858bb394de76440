"""What a training leaves in its work folder: what it is, its history, its answers."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.version import __version__
from imagecensus.model_export.training.decoded_images import Images
from imagecensus.model_export.training.features import TrainingSpec
from imagecensus.model_export.training.labelled_data import LabelledData
from imagecensus.model_export.training.splits import uri_of_name

RUN_FILE = "run.json"
PREDICTIONS_FILE = "predictions.parquet"


def describe_training(data: LabelledData, spec: TrainingSpec) -> dict[str, Any]:
    """What the contract says of the training, and what a resumed run must have in common."""
    digest = hashlib.sha256(json.dumps(data.labels).encode())
    for name, split in data.splits.items():
        for image, label in zip(split.names, split.labels, strict=True):
            digest.update(f"{name}\0{os.path.basename(image)}\0{label}\n".encode())
    settings = dataclasses.asdict(spec)
    weights = spec.classifier.backbone.weights
    if os.path.isfile(weights):
        # A contract travels: it names the file, not where it lay.
        with open(weights, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
        named = f"{os.path.basename(weights)} (sha256 {content[:16]})"
        settings["classifier"]["backbone"]["weights"] = named
    facts = {
        "data": os.path.basename(os.path.normpath(data.source)),
        "data_digest": digest.hexdigest(),
        "images": {name: len(split) for name, split in data.splits.items()},
        "spec": settings,
        "versions": {
            "imagecensus": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }
    return cast(dict[str, Any], json.loads(json.dumps(facts)))


def open_work(work: str, provenance: dict[str, Any], fresh: bool) -> None:
    """Makes the work folder, or checks that it holds the same training.

    Raises:
      UserError: it holds another one, unfinished.
    """
    path = os.path.join(work, RUN_FILE)
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    state = os.path.join(work, "state")
    if os.path.isdir(state) and os.listdir(state) and os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            earlier = json.load(file)
        different = sorted(_differences(earlier, provenance))
        if different:
            raise UserError(
                f"{work}: holds an unfinished training that differs in {', '.join(different)};"
                " repeat its command to resume it, or add --fresh to throw it away"
            )
        return
    os.makedirs(work, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(provenance, file, indent=1)


def remove_state(work: str) -> None:
    """Removes what only an unfinished training needs."""
    for name in ("state", "cache"):
        shutil.rmtree(os.path.join(work, name), ignore_errors=True)


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif one != other:
        yield f"{path.removeprefix('spec.')} ({one} there, {other} now)"


def write_history(path: str, history: list[dict[str, Any]]) -> None:
    columns = ["phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def write_predictions(
    path: str, labels: Sequence[str], images: dict[str, Images], answers: dict[str, np.ndarray]
) -> None:
    """The trainer's answer for each image, to be compared with the batch job's rows.

    Columns: split, uri, label (true), predicted, score.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {
        "split": [],
        "uri": [],
        "label": [],
        "predicted": [],
        "score": [],
    }
    for name, split in images.items():
        best = answers[name].argmax(1) if len(split) else []
        columns["split"] += [name] * len(split)
        columns["uri"] += map(uri_of_name, split.names)
        columns["label"] += [labels[i] for i in split.labels]
        columns["predicted"] += [labels[i] for i in best]
        columns["score"] += [float(answers[name][row, i]) for row, i in enumerate(best)]
    pq.write_table(pa.table(columns), path)
