"""How good a classifier is: figures from probabilities and true labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from imagecensus.model_export.training.metrics import measure


def evaluate(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The figures that go into the contract: those that `imagecensus evaluate` gives of a table.

    Args:
      probabilities: float32 [N, classes].
      labels: int [N], true class ids.

    Returns:
      examples, accuracy, top5_accuracy, loss, macro_precision, macro_recall, macro_f1 and
      calibration_error, as plain numbers; only examples = 0 for an empty split.
    """
    if not len(labels):
        return {"examples": 0}
    best = min(5, probabilities.shape[1])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :best]
    hits = order == labels[:, None]
    figures = measure(
        labels,
        order[:, 0],
        score=probabilities.max(1),
        rank=np.where(hits.any(1), hits.argmax(1) + 1, 0),
        labels=[str(index) for index in range(probabilities.shape[1])],
        top_k=best,
    )
    chosen = np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)
    return {
        "examples": len(labels),
        "accuracy": figures["accuracy"]["value"],
        "top5_accuracy": figures["top_k_accuracy"][str(best)]["value"],
        "loss": float(-np.log(chosen).mean()),
        **{f"macro_{name}": value for name, value in figures["average"]["macro"].items()},
        "calibration_error": figures["calibration"]["ece"],
    }


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 [classes, classes]: rows are true classes, columns the answers."""
    from sklearn.metrics import confusion_matrix

    classes = range(probabilities.shape[1])
    matrix = confusion_matrix(labels, probabilities.argmax(1), labels=list(classes))
    return np.asarray(matrix)


def per_class(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """precision, recall, f1 and support of each class, [classes] each; 0 where undefined."""
    from sklearn.metrics import precision_recall_fscore_support

    figures = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=list(range(probabilities.shape[1])), zero_division=0
    )
    return dict(zip(("precision", "recall", "f1", "support"), figures, strict=True))
