"""Lists of labelled images: columns, lines that cannot be used, images named twice."""

import json
import os

import pytest
from bucket_emulator import emulated_bucket
from images import contents, manifest, write_class_folders
from packing import pack
from PIL import Image
from samples import make_photos

from imagecensus.jobs.training_data.sources import read_training_data
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.training.labelled_data import SplitFractions
from imagecensus.model_export.training.splits import DataError

FRACTIONS = SplitFractions(val=0.2, test=0.2, seed=3)
NO_TEST = SplitFractions(val=0, test=0)


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


def test_a_image_named_twice_is_one_image(tmp_path):
    rows = [("a.jpg", "cat"), ("./a.jpg", "cat"), ("b.jpg", "dog")]
    data = read_training_data(manifest(tmp_path / "list.csv", rows), NO_TEST)
    assert [os.path.basename(name) for name in data.splits["train"].names] == ["a.jpg", "b.jpg"]
    rows.append((f"file://{tmp_path}/a.jpg", "cow"))
    with pytest.raises(DataError, match="line 2 and line 5 are one image, .*'cat'.*'cow'"):
        read_training_data(manifest(tmp_path / "list.csv", rows), NO_TEST)


@pytest.mark.gcs
def test_a_manifest_in_a_bucket_names_images_beside_it_and_here(tmp_path):
    local = make_photos(tmp_path / "photos", 1)[0]
    archive = pack("tar.gz", [("a.jpg", b"a"), ("b.jpg", b"b")], tmp_path / "x.tar.gz")
    with emulated_bucket("training") as bucket:
        bucket.blob("set/1.jpg").upload_from_string(b"one")
        bucket.blob("set/x.tar.gz").upload_from_filename(archive)
        rows = [("1.jpg", "p"), ("gs://training/set/x.tar.gz#b.jpg", "q"), (local, "p")]
        bucket.blob("set/list.csv").upload_from_filename(manifest(tmp_path / "list.csv", rows))
        data = read_training_data("gs://training/set/list.csv", NO_TEST)
        assert data.source == "gs://training/set/list.csv"
        with open(local, "rb") as file:
            assert contents(data) == {
                ("gs://training/set/1.jpg", "p"): b"one",
                ("gs://training/set/x.tar.gz#b.jpg", "q"): b"b",
                (local, "p"): file.read(),
            }
        with pytest.raises(UserError, match="gone.csv: no such manifest"):
            read_training_data("gs://training/gone.csv", NO_TEST)
        with pytest.raises(UserError, match="class folders in a bucket are not read"):
            read_training_data("gs://training/set", NO_TEST)
