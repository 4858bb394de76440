"""What int8 loses, and when it may take float32's place."""

import dataclasses

import numpy as np
import pytest

from imagecensus.model_export.contract import Contract, Golden, ModelError
from imagecensus.model_export.precision import check_golden, judge_int8, measure_loss
from imagecensus.model_export.preprocess import PreprocessSpec


def answers(*rows):
    """Of rows of {class id: score}, best first."""
    return (
        np.array([list(row) for row in rows], np.int32),
        np.array([list(row.values()) for row in rows], np.float32),
    )


def contract(**figures):
    metrics = {"int8": figures} if figures else {}
    return Contract(
        name="m",
        preprocess=PreprocessSpec(),
        labels=("a", "b"),
        top_k=2,
        embedding_size=3,
        training={},
        metrics=metrics,
        package_version="0",
    )


def test_loss_counts_what_float32_gives_to_its_own_label_more_than_to_the_other():
    f32 = answers({0: 0.7, 1: 0.3}, {1: 0.51, 0: 0.49}, {0: 0.6, 1: 0.4}, {0: 0.8, 1: 0.2})
    int8 = answers({0: 0.6, 1: 0.4}, {0: 0.55, 1: 0.45}, {0: 0.7, 1: 0.3}, {0: 0.9, 1: 0.1})
    loss = measure_loss(f32, int8, np.array([0, 1, 1, -1]))
    assert loss.images == 4 and loss.agreement == 0.75
    assert loss.expected_loss == pytest.approx(0.02 / 4, abs=1e-6)
    low, high = loss.expected_loss_interval
    assert low == 0 and high > loss.expected_loss
    assert (loss.accuracy_f32, loss.accuracy_int8) == pytest.approx((2 / 3, 1 / 3))
    assert loss.agreement_interval[0] < 0.75 < loss.agreement_interval[1]


def test_a_label_outside_of_float32s_best_counts_whole():
    loss = measure_loss(answers({0: 0.6, 1: 0.4}), answers({7: 0.6, 0: 0.4}))
    assert loss.expected_loss == pytest.approx(0.6)
    assert loss.accuracy_f32 is None


@pytest.mark.parametrize(
    "change, allowed",
    [
        ({}, True),
        ({"images": 99}, False),
        ({"expected_loss_interval": [0.0, 0.006]}, False),
        ({"accuracy_int8": 0.89}, False),
        ({"accuracy_int8": 0.897}, True),
        ({"accuracy_f32": None, "accuracy_int8": None}, True),
        ({"images": None}, False),
    ],
)
def test_int8_is_taken_within_half_a_point(change, allowed):
    figures = {"images": 200, "expected_loss_interval": [0.0, 0.004]}
    figures |= {"accuracy_f32": 0.9, "accuracy_int8": 0.9} | change
    assert judge_int8(contract(**figures))[0] is allowed


def test_nothing_measured_is_not_taken():
    assert judge_int8(contract()) == (False, "what int8 loses was not measured")


def test_golden_answers_in_int8_may_swap_near_ties_and_nothing_else():
    ids, scores = answers({4: 0.50, 2: 0.48})
    golden = Golden(images=np.zeros((1, 2, 2, 3), np.uint8), class_ids=ids, scores=scores)
    check_golden(golden, *answers({2: 0.50, 4: 0.49}), "m", "int8")
    check_golden(golden, ids, scores, "m", "f32")
    with pytest.raises(ModelError, match="in int8: the golden images' scores differ by"):
        check_golden(golden, *answers({4: 0.60, 2: 0.38}), "m", "int8")
    sure = dataclasses.replace(golden, scores=np.array([[0.7, 0.2]], np.float32))
    with pytest.raises(ModelError, match="int8"):  # the same scores for other classes
        check_golden(sure, *answers({7: 0.7, 8: 0.2}), "m", "int8")
    with pytest.raises(ModelError, match="differ by nan"):
        check_golden(golden, ids, scores * np.nan, "m", "int8")
    with pytest.raises(ModelError):
        check_golden(golden, *answers({2: 0.50, 4: 0.48}), "m", "f32")
    wrong = dataclasses.replace(golden, scores=scores[:, :1])
    with pytest.raises(ModelError, match="shape"):
        check_golden(wrong, ids, scores, "m", "int8")
