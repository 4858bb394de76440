"""Finding labelled images: folders, manifests, splits, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import draw, write_class_folders

from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.decoded_images import ArrayCache, decode_images
from imagecensus.model_export.training.labelled_data import (
    SplitFractions,
    read_labelled_data,
    split_of_files,
    stratified_rows,
)
from imagecensus.model_export.training.splits import DataError

FRACTIONS = SplitFractions(val=0.2, test=0.2, seed=3)


def names_of(data):
    return {split: set(data.splits[split].names) for split in data.splits}


def test_class_folders_are_cut_by_the_seed_and_nothing_is_lost(tmp_path):
    write_class_folders(tmp_path, {"disc": 20, "square": 10}, size=8)
    (tmp_path / "disc" / ".DS_Store").write_bytes(b"x")
    data = read_labelled_data(str(tmp_path), FRACTIONS)
    assert data.labels == ("disc", "square")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 18,
        "val": 6,
        "test": 6,
    }
    names = names_of(data)
    assert len(names["train"] | names["val"] | names["test"]) == 30
    assert names == names_of(read_labelled_data(str(tmp_path), FRACTIONS))
    assert names != names_of(read_labelled_data(str(tmp_path), SplitFractions(0.2, 0.2, 4)))
    for split in data.splits.values():
        assert [data.labels[i] in name for i, name in zip(split.labels, split.names, strict=True)]
        assert len(list(split.open())) == len(split)


def test_ready_made_splits_are_kept(tmp_path):
    for part, count in (("train", 6), ("validation", 2), ("test", 3)):
        write_class_folders(tmp_path / part, {"disc": count, "square": count}, size=8)
    data = read_labelled_data(str(tmp_path), FRACTIONS)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 12,
        "val": 4,
        "test": 6,
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifests(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_class_folders(tmp_path / "all", {"disc": 4, "square": 4}, size=8)
    rows = [
        {"path": f"all/{name}/{name}-000{i}.jpg", "label": name, "split": split}
        for name in ("disc", "square")
        for i, split in enumerate(["train", "train", "valid", "test"])
    ]
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        lines = ["path,label,split"] + [",".join(row.values()) for row in rows]
        path.write_text("\n".join(lines))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    data = read_labelled_data(str(path), FRACTIONS)
    assert data.labels == ("disc", "square")
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [4, 2, 2]
    for read in data.splits["test"].open():
        assert read().startswith(b"\xff\xd8")


def test_numeric_labels_stay_in_order(tmp_path):
    rows = [f"{i}-{j}.png,{i}" for i in range(11) for j in range(4)]
    (tmp_path / "list.csv").write_text("filename,label\n" + "\n".join(rows))
    data = read_labelled_data(str(tmp_path / "list.csv"), FRACTIONS)
    assert data.labels == tuple(str(i) for i in range(11))


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    def refused(source, match):
        with pytest.raises(DataError, match=match):
            read_labelled_data(str(source), FRACTIONS)

    refused(tmp_path / "absent", "no such folder")
    one = tmp_path / "one"
    write_class_folders(one, {"disc": 3}, size=8)
    refused(one, "1 class .'disc'.: a classifier needs two")
    (one / "empty").mkdir()
    refused(one, "empty: empty class folder")
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "0 class")
    split = tmp_path / "split"
    write_class_folders(split / "train", {"disc": 3, "square": 3}, size=8)
    write_class_folders(split / "test", {"disc": 2, "stripes": 2}, size=8)
    refused(split, "'stripes' has no training image")
    (tmp_path / "list.csv").write_text("path,kind\na.jpg,x\n")
    refused(tmp_path / "list.csv", "no column 'label'.*--label-column")
    (tmp_path / "bad.csv").write_text("path,label\na.jpg,\n")
    refused(tmp_path / "bad.csv", "row 1 has no path or no label")
    (tmp_path / "list.txt").write_text("a")
    refused(tmp_path / "list.txt", "ends in .csv")


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
        cache = ArrayCache(str(tmp_path / "cache"), 2**20, 2**20)
        return decode_images(split, spec, cache, "train", limit)

    images = decode(0.5)
    assert [b.status for b in images.broken] == ["not_an_image", "read_error"]
    assert images.labels.tolist() == [0, 1, 2, 4, 6, 7]
    taken = images.take(np.asarray([3]))[0].astype(int)
    assert np.abs(taken - np.asarray(draw("disc", 4, 16)).astype(int)).mean() < 30
    with pytest.raises(DataError, match="2 of 8 train images cannot be read.*disc-0003"):
        decode(0.1)


def test_arrays_go_to_disk_past_one_bound_and_are_refused_past_both(tmp_path):
    cache = ArrayCache(str(tmp_path), memory_bytes=100, disk_bytes=1000)
    assert not isinstance(cache.allocate("a", (90,), np.uint8), np.memmap)
    held = cache.allocate("b", (900,), np.uint8)
    held[:] = 7
    assert isinstance(held, np.memmap) and (tmp_path / "b.npy").exists()
    with pytest.raises(DataError, match="--cache-memory.*--cache-disk"):
        cache.allocate("c", (101,), np.uint8)
