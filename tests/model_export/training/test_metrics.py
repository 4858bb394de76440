"""Figures of an evaluation, against those of scikit-learn and worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, top_k_accuracy_score

from imagecensus.model_export.training.metrics import (
    measure,
    measure_calibration,
    measure_coverage,
)

classes = st.integers(2, 6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), classes, st.integers(1, 300))
def test_figures_equal_scikit_learns(seed, count, rows):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, count, rows)
    scores = rng.random((rows, count)).astype(np.float32)
    scores /= scores.sum(1, keepdims=True)
    order = np.argsort(-scores, axis=1)
    predicted, score = order[:, 0], scores.max(1)
    rank = (order == truth[:, None]).argmax(1) + 1
    rank[rank > 2] = 0  # the table holds two answers
    labels = [f"l{i}" for i in range(count)]
    found = measure(truth, predicted, score=score, rank=rank, labels=labels, top_k=2)
    assert found["accuracy"]["value"] == pytest.approx(accuracy_score(truth, predicted))
    if count > 2:
        assert found["top_k_accuracy"]["2"]["value"] == pytest.approx(
            top_k_accuracy_score(truth, scores, k=2, labels=range(count))
        )
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=range(count), zero_division=0
    )
    for entry in found["per_class"]:
        index = labels.index(entry["label"])
        assert entry["support"] == support[index]
        for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
            if entry[name] is not None:
                assert entry[name] == pytest.approx(expected[index])
                assert entry[f"{name}_low"] <= entry[name] + 1e-9
                assert entry[name] <= entry[f"{name}_high"] + 1e-9
    bins = found["calibration"]["bins"]
    assert sum(entry["count"] for entry in bins) == rows
    assert found["coverage"][0]["coverage"] == 1


def test_calibration_of_a_model_that_is_too_sure():
    score = np.full(100, 0.9, np.float32)
    correct = np.arange(100) < 60
    assert measure_calibration(correct, score)["ece"] == pytest.approx(0.3, abs=1e-6)


def test_coverage_falls_and_is_exact():
    score = np.array([0.1, 0.5, 0.5, 0.9], np.float32)
    curve = measure_coverage(np.array([False, True, False, True]), score)
    assert curve[50] == {"threshold": 0.5, "coverage": 0.75, "accuracy": pytest.approx(2 / 3)}
    assert curve[51]["coverage"] == 0.25 and curve[95]["accuracy"] is None
