"""The same image twice among training data: found by its pixels, whatever the file is."""

import csv

import numpy as np
from images import draw
from PIL import Image

from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.decoded_images import ArrayCache, decode_images
from imagecensus.model_export.training.duplicates import (
    add_unseen,
    describe_duplicates,
    find_duplicates,
    write_duplicates,
)
from imagecensus.model_export.training.labelled_data import split_of_files

LABELS = ("disc", "square")


def decode(tmp_path, **splits):
    """Each split as (label, seed, suffix): the same label and seed is the same image."""
    decoded = {}
    for name, files in splits.items():
        folder = tmp_path / name
        folder.mkdir()
        paths = []
        for index, (shape, seed, suffix, label) in enumerate(files):
            image = Image.fromarray(np.asarray(draw(shape, seed, 16)))
            paths.append(str(folder / f"{label}-{index}.{suffix}"))
            image.save(paths[-1])
        labels = [LABELS.index(file[3]) for file in files]
        cache = ArrayCache(directory=str(tmp_path / "cache"), memory_bytes=2**20, disk_bytes=2**20)
        split = split_of_files(paths, labels)
        decoded[name] = decode_images(split, PreprocessSpec(height=16, width=16), cache, name)
    return decoded


def test_copies_in_splits_and_classes_are_counted_by_kind(tmp_path):
    images = decode(
        tmp_path,
        train=[
            ("disc", 1, "png", "disc"),
            ("disc", 2, "png", "disc"),
            ("disc", 2, "bmp", "disc"),  # a copy in another format
            ("disc", 3, "png", "disc"),
            ("disc", 3, "png", "square"),  # the same in two classes
            ("square", 4, "png", "square"),
        ],
        val=[("disc", 1, "bmp", "disc"), ("disc", 9, "png", "disc")],
        test=[("disc", 1, "png", "disc"), ("square", 8, "png", "square"),
              ("square", 4, "png", "square"), ("disc", 9, "bmp", "square")],
    )  # fmt: skip
    found = find_duplicates(images, LABELS)
    assert found.counts == {
        "val_in_train": 1,
        "test_in_train": 2,
        "test_in_val": 2,
        "in_two_classes": 2,
        "copies": 1,
    }
    told = describe_duplicates(found)
    assert "2 test images are in train too; 1 val image is in train too" in told
    assert "2 images are in more than one class" in told
    write_duplicates(str(tmp_path / "d.csv"), found)
    with open(tmp_path / "d.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], set()).add(row["uri"].rsplit("/", 2)[1])
    assert sorted(map(sorted, groups.values())) == [
        ["test", "train"], ["test", "train", "val"], ["test", "val"], ["train"], ["train"],
    ]  # fmt: skip
    answers = {name: np.eye(2, dtype=np.float32)[split.labels] for name, split in images.items()}
    answers["test"][1] = [1, 0]  # the one image that is new is wrong
    metrics = {name: {"accuracy": 0.75} for name in images}
    added = add_unseen(metrics, images, answers)
    assert added["test"]["unseen"]["examples"] == 1 and added["test"]["unseen"]["accuracy"] == 0
    assert added["val"]["unseen"]["examples"] == 1 and added["val"]["unseen"]["accuracy"] == 1
    assert "unseen" not in added["train"] and added["test"]["accuracy"] == 0.75


def test_nothing_is_said_where_all_images_differ(tmp_path):
    images = decode(
        tmp_path,
        train=[("disc", 1, "png", "disc"), ("square", 2, "png", "square")],
        val=[],
        test=[("disc", 3, "png", "disc")],
    )
    found = find_duplicates(images, LABELS)
    assert not found.rows and not any(found.counts.values())
    assert add_unseen({"test": {}, "val": {}}, images, {}) == {"test": {}, "val": {}}
