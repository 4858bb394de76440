"""Class folders as people have them: what is not used is said, what people see as one is one."""

import os

import pytest
from images import write_class_folders

from imagecensus.jobs.training_data.class_folders import read_class_folders
from imagecensus.jobs.training_data.sources import read_training_data
from imagecensus.model_export.training.labelled_data import SplitFractions
from imagecensus.model_export.training.splits import DataError


def fill(folder, **files):
    """Files by folder: `a__b=2` puts two files into a/b."""
    for name, count in files.items():
        place = folder / name.replace("__", "/")
        place.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (place / f"{index}.jpg").write_bytes(b"x")


def read(folder):
    labels, splits, notes = read_class_folders(str(folder))
    return labels, {name: len(split) for name, split in splits.items()}, notes


def test_a_plain_folder_needs_no_note(tmp_path):
    fill(tmp_path, a=3, b=2)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert read(tmp_path) == (["a", "b"], {"train": 5}, [])


def test_a_split_without_class_folders_is_left_out_and_said(tmp_path):
    fill(tmp_path, train__a=3, train__b=3, test=10, val__a=1)
    _labels, counts, notes = read(tmp_path)
    assert counts == {"train": 6, "val": 1}
    [note] = notes
    assert "test has no class folders: 10 files in it left out; a test split is cut" in note


def test_everything_that_is_not_used_is_said(tmp_path):
    fill(tmp_path, train__a=3, train__b=3, more__c=4, models=0)
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "train" / "loose.jpg").write_bytes(b"x")
    labels, counts, notes = read(tmp_path)
    assert labels == ["a", "b"] and counts == {"train": 6}
    assert len(notes) == 3
    assert any("more is not used, 4 files" in note for note in notes)
    assert any("1 file in no class folder left out (readme.txt)" in note for note in notes)
    assert any("train: 1 file in no class folder left out (loose.jpg)" in note for note in notes)


def test_folders_within_classes_are_hinted_at(tmp_path):
    fill(tmp_path, animals__cats=3, animals__dogs=3, cars=2)
    labels, counts, [note] = read(tmp_path)
    assert labels == ["animals", "cars"] and counts == {"train": 8}
    assert "animals has folders with images (cats, dogs): all of them are class 'animals'" in note


def test_names_are_compared_as_people_see_them(tmp_path):
    fill(tmp_path, Train__Cat=3, TEST__cat=1, valid__CAT=1, validation__Cat=2)
    fill(tmp_path, **{"TEST__cafe\u0301": 1, "Train__caf\u00e9": 2})
    labels, counts, notes = read(tmp_path)
    assert labels == ["Cat", "caf\u00e9"]
    assert counts == {"train": 5, "test": 2, "val": 3}
    assert sum("is taken as class 'Cat'" in note for note in notes) == 2
    assert sum("is taken as class 'caf\u00e9'" in note for note in notes) == 1


def test_links_in_a_circle_are_followed_once(tmp_path):
    fill(tmp_path, a=2, b=2)
    os.symlink("..", tmp_path / "a" / "loop")
    os.symlink(tmp_path / "a", tmp_path / "a" / "self")
    (tmp_path / "a" / "again.jpg").symlink_to(next((tmp_path / "a").glob("*.jpg")))
    labels, counts, notes = read(tmp_path)
    assert labels == ["a", "b"] and counts["train"] == 4
    assert f"{tmp_path}: left out by rule: 3 links" in notes


def test_a_link_is_used_in_its_class_whatever_other_classes_link_to(tmp_path):
    fill(tmp_path, blobs=2)
    keys = []
    for number, path in enumerate(sorted((tmp_path / "blobs").iterdir())):
        keys.append(path.rename(path.with_name(f"{number}" * 40)))
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.jpg").symlink_to(keys[0])
        (tmp_path / "data" / name / "2.jpg").symlink_to(keys[0])
    (tmp_path / "data" / "b" / "3.jpg").symlink_to("../a/1.jpg")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "blobs")
    labels, counts, notes = read(tmp_path / "data")
    assert labels == ["a", "b", "c"] and counts == {"train": 4}
    assert f"{tmp_path / 'data'}: left out by rule: 3 links" in notes


def test_what_classify_leaves_out_is_left_out_of_classes_and_noted(tmp_path):
    fill(tmp_path, a=2, b=2)
    image = next(path for path in (tmp_path / "a").iterdir())
    image.with_suffix(".json").write_text("{}")
    (tmp_path / "b" / "Thumbs.db").write_bytes(b"x")
    _, counts, notes = read(tmp_path)
    assert counts["train"] == 4
    assert f"{tmp_path}: left out by rule: 1 sidecar, 1 system file or folder" in notes


def test_a_class_is_called_as_people_see_it_and_holds_images_alone(tmp_path):
    fill(tmp_path, **{" cafe\u0301 ": 2, "b": 2})
    for name in ("notes.txt", "README", "list.csv"):
        (tmp_path / "b" / name).write_bytes(b"x")
    labels, counts, notes = read(tmp_path)
    assert labels == ["b", "caf\u00e9"] and counts == {"train": 4}
    assert f"{tmp_path}: left out by rule: 3 files that are no images" in notes


def test_train_without_class_folders_is_refused(tmp_path):
    fill(tmp_path, train=3, test__a=1)
    with pytest.raises(DataError, match="train: has no class folders"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_refused_by_name(tmp_path):
    fill(tmp_path, a=2, b__inner=2)
    (tmp_path / "b" / "inner").chmod(0)
    with pytest.raises(DataError, match="inner: the folder could not be listed: Permission denied"):
        read(tmp_path)


FRACTIONS = SplitFractions(val=0.2, test=0.2, seed=3)


def names_of(data):
    return {split: set(data.splits[split].names) for split in data.splits}


def test_class_folders_are_cut_by_the_seed_and_nothing_is_lost(tmp_path):
    write_class_folders(tmp_path, {"disc": 20, "square": 10}, size=8)
    (tmp_path / "disc" / ".DS_Store").write_bytes(b"x")
    data = read_training_data(str(tmp_path), FRACTIONS)
    assert data.labels == ("disc", "square")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 18,
        "val": 6,
        "test": 6,
    }
    names = names_of(data)
    assert len(names["train"] | names["val"] | names["test"]) == 30
    assert names == names_of(read_training_data(str(tmp_path), FRACTIONS))
    assert names != names_of(
        read_training_data(str(tmp_path), SplitFractions(val=0.2, test=0.2, seed=4))
    )
    for split in data.splits.values():
        assert [data.labels[i] in name for i, name in zip(split.labels, split.names, strict=True)]
        assert len(list(split.open())) == len(split)


def test_ready_made_splits_are_kept(tmp_path):
    for part, count in (("train", 6), ("validation", 2), ("test", 3)):
        write_class_folders(tmp_path / part, {"disc": count, "square": count}, size=8)
    data = read_training_data(str(tmp_path), FRACTIONS)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 12,
        "val": 4,
        "test": 6,
    }
