"""Splits of labelled images, and the arrays of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import draw, write_class_folders

from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.decoded_images import ArrayCache, decode_images
from imagecensus.model_export.training.labelled_data import (
    split_of_files,
    stratified_rows,
)
from imagecensus.model_export.training.splits import DataError


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    fraction=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_a_split_takes_its_share_of_every_class_and_never_all(labels, fraction, seed):
    labels = np.asarray(labels)
    rows = stratified_rows(labels, fraction, seed)
    assert len(set(rows.tolist())) == len(rows)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        cut = int((labels[rows] == label).sum())
        assert abs(cut - fraction * count) <= 1
        assert cut < count


def test_broken_images_are_left_out_up_to_a_limit(tmp_path):
    write_class_folders(tmp_path, {"disc": 8}, size=16)
    (tmp_path / "disc" / "disc-0003.jpg").write_bytes(b"no image")
    (tmp_path / "disc" / "disc-0005.jpg").unlink()
    paths = [str(tmp_path / "disc" / f"disc-000{i}.jpg") for i in range(8)]
    split = split_of_files(paths, range(8))
    spec = PreprocessSpec(height=16, width=16)

    def decode(limit):
        cache = ArrayCache(directory=str(tmp_path / "cache"), memory_bytes=2**20, disk_bytes=2**20)
        return decode_images(split, spec, cache, "train", max_broken_rate=limit)

    images = decode(0.5)
    assert [b.status for b in images.broken] == ["not_an_image", "read_error"]
    assert images.labels.tolist() == [0, 1, 2, 4, 6, 7]
    taken = images.take(np.asarray([3]))[0].astype(int)
    assert np.abs(taken - np.asarray(draw("disc", 4, 16)).astype(int)).mean() < 30
    with pytest.raises(DataError, match="2 of 8 train images cannot be read.*disc-0003"):
        decode(0.1)


def test_arrays_go_to_disk_past_one_bound_and_are_refused_past_both(tmp_path):
    cache = ArrayCache(directory=str(tmp_path), memory_bytes=100, disk_bytes=1000)
    assert not isinstance(cache.allocate("a", (90,), np.uint8), np.memmap)
    held = cache.allocate("b", (900,), np.uint8)
    held[:] = 7
    assert isinstance(held, np.memmap) and (tmp_path / "b.npy").exists()
    with pytest.raises(DataError, match="--cache-memory.*--cache-disk"):
        cache.allocate("c", (101,), np.uint8)
