"""Intervals, against those of SciPy."""

import pytest
from scipy.stats import binomtest

from imagecensus.model_export.common.intervals import wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 7), (400, 1000)])
def test_intervals_are_wilsons(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    low, high = wilson(hits, count)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high))
    assert [float(bound) for bound in wilson(0, 0)] == [0, 1]
