"""The number of a run: raised once each, by whoever; noticed by workers of earlier runs."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagecensus.transforms.dataset import epoch
from imagecensus.transforms.dataset.epoch import fence_of, raise_epoch
from imagecensus.transforms.storage import store


def test_runs_at_the_same_time_get_different_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(epoch, "_TRIES", 100)
    with ThreadPoolExecutor(8) as pool:
        numbers = pool.map(lambda n: raise_epoch(str(tmp_path / "epoch.json"), str(n)), range(16))
    assert sorted(numbers) == list(range(1, 17))


def test_a_later_run_is_noticed_by_shards_too(tmp_path):
    whole, shard = str(tmp_path / "epoch.json"), str(tmp_path / "epoch-s0of2.json")
    first = fence_of(whole, whole, raise_epoch(whole, "a"))
    own = fence_of(shard, whole, raise_epoch(shard, "b"))
    assert first.is_held() and own.is_held()
    raise_epoch(whole, "c")
    assert not first.is_held() and not own.is_held()


def test_damage_does_not_stop_the_next_run(tmp_path):
    (tmp_path / "epoch.json").write_text("{")
    assert raise_epoch(str(tmp_path / "epoch.json"), "a") == 1


def test_an_answer_that_was_lost_is_no_other_run(tmp_path, monkeypatch):
    """The store did write, and the client repeated the request: that conflict is our own."""
    real = store.write

    def write(location, data, **options):
        real(location, data, **options)
        raise store.ConflictError("x")

    monkeypatch.setattr(store, "write", write)
    assert raise_epoch(str(tmp_path / "epoch.json"), "a") == 1
    monkeypatch.setattr(store, "write", real)
    assert raise_epoch(str(tmp_path / "epoch.json"), "b") == 2


@pytest.mark.parametrize("age, again", [(5, False), (90, True)])
def test_signs_of_life_are_left_once_a_minute(tmp_path, age, again):
    signs = tmp_path / "working.json"
    fence = epoch.Fence(epochs={"/x": 1}, signs=str(signs))
    fence.sign(60)
    os.utime(signs, (time.time() - age,) * 2)
    before = signs.stat().st_mtime_ns
    fence.sign(60)
    assert (signs.stat().st_mtime_ns != before) == again
