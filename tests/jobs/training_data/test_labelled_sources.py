"""Finding labelled images: folders, manifests, splits, and what is refused."""

import json

import pytest
from images import write_class_folders
from PIL import Image

from imagecensus.jobs.training_data.sources import read_training_data
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.training.labelled_data import SplitFractions

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
    data = read_training_data(str(path), FRACTIONS)
    assert data.labels == ("disc", "square")
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [4, 2, 2]
    for read in data.splits["test"].open():
        assert read().startswith(b"\xff\xd8")


def test_numeric_labels_stay_in_order(tmp_path):
    rows = [f"{i}-{j}.png,{i}" for i in range(11) for j in range(4)]
    (tmp_path / "list.csv").write_text("filename,label\n" + "\n".join(rows))
    data = read_training_data(str(tmp_path / "list.csv"), FRACTIONS)
    assert data.labels == tuple(str(i) for i in range(11))


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    def refused(source, match):
        with pytest.raises(UserError, match=match):
            read_training_data(str(source), FRACTIONS)

    refused(tmp_path / "absent", "no such folder")
    one = tmp_path / "one"
    write_class_folders(one, {"disc": 3}, size=8)
    refused(one, "has one class .'disc'.: a classifier needs two")
    (one / "empty").mkdir()
    refused(one, "empty: empty class folder")
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "has no classes")
    split = tmp_path / "split"
    write_class_folders(split / "train", {"disc": 3, "square": 3}, size=8)
    write_class_folders(split / "test", {"disc": 2, "stripes": 2}, size=8)
    refused(split, "'stripes' has no training image")
    (tmp_path / "list.csv").write_text("path,kind\na.jpg,x\n")
    refused(tmp_path / "list.csv", "no column 'label'.*--label-column")
    (tmp_path / "bad.csv").write_text("path,label\na.jpg,\n")
    refused(tmp_path / "bad.csv", "line 2 has no path or no label")
    (tmp_path / "list.txt").write_text("a")
    refused(tmp_path / "list.txt", "neither a folder of class folders nor a list")


def test_a_line_that_cannot_be_used_costs_itself_and_is_said(tmp_path):
    lines = ["path,label", "a.jpg,x", "b.jpg,", "c.jpg,y,z", ",y", "d.jpg,y"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    data = read_training_data(str(tmp_path / "list.csv"), SplitFractions(val=0, test=0))
    assert data.labels == ("x", "y") and len(data.splits["train"]) == 2
    [note] = [note for note in data.notes if "left out" in note]
    assert "3 lines left out: line 3 has no path or no label; line 4 has 3 fields" in note


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("semicolon.csv", "path;label\n{}"),
        ("tabs.tsv", "path\tlabel\n{}"),
        ("capital.csv", "Path,Label\n{}"),
        ("huggingface.csv", "file_name,label\n{}"),
    ],
)
def test_lists_that_classify_takes_are_training_data(tmp_path, name, text):
    write_class_folders(tmp_path, {"disc": 4, "square": 4}, size=8)
    separator = {"s": ";", "t": "\t"}.get(name[0], ",")
    lines = [
        f"{kind}/{kind}-000{i}.jpg{separator}{kind}"
        for kind in ("disc", "square")
        for i in range(4)
    ]
    (tmp_path / name).write_text(text.format("\n".join(lines)))
    data = read_training_data(str(tmp_path / name), FRACTIONS)
    assert data.labels == ("disc", "square")
    assert all(read().startswith(b"\xff\xd8") for read in data.splits["train"].open())


def test_names_of_lists_are_compared_as_people_see_them(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    Image.new("RGB", (8, 8)).save(tmp_path / f"{decomposed}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "2.png")
    lines = [f"{composed}.png,{composed},TRAIN", f"2.png,{decomposed.upper()} ,train"]
    Image.new("RGB", (8, 8)).save(tmp_path / "3.png")
    lines.append("3.png,tea,train")
    (tmp_path / "list.csv").write_text("uri,label,Split\n" + "\n".join(lines) + "\n")
    data = read_training_data(str(tmp_path / "list.csv"), SplitFractions(val=0, test=0))
    assert data.labels == (composed, "tea")
    assert f"is taken as {composed!r}" in data.notes[0]
    split = data.splits["train"]
    assert [bool(read()) for read in split.open()] == [True] * 3
