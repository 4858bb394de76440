"""Every reader of files under damaged and arbitrary bytes; see `fuzz.py`."""

import pathlib
import tempfile

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TARGETS = sorted(fuzz.TARGETS)
SEEDS = {target: fuzz.seeds_of(target) for target in TARGETS}
SLOW = {"report": 15, "archive": 120, "manifest": 60}

_places = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12)


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def _check(target, data, place):
    folder = place / target
    folder.mkdir(exist_ok=True)
    fuzz.TARGETS[target](data, folder)


@pytest.mark.parametrize("target", TARGETS)
def test_well_formed_inputs(target, place):
    for seed in SEEDS[target]:
        _check(target, seed, place)


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_inputs_raise_only_typed_errors(target, place):
    @settings(
        max_examples=SLOW.get(target, 500),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(SEEDS[target]), _places, st.one_of(st.just(1.0), st.floats(0, 1)))
    def check(seed, places, cut):
        _check(target, fuzz.damaged(seed, places, cut), place)

    check()


@pytest.mark.parametrize("target", TARGETS)
def test_arbitrary_bytes_raise_only_typed_errors(target, place):
    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(st.binary(max_size=200))
    def check(data):
        _check(target, data, place)

    check()


KEPT = sorted(path for path in fuzz.HOSTILE.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_inputs_that_once_found_a_defect(path, place):
    _check(path.parent.name, path.read_bytes(), place)
