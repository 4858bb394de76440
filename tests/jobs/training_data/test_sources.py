"""Training data in every place where the batch job reads images."""

import os
import pathlib

import pytest
from images import contents, manifest, write_class_folders
from packing import KINDS, NAMED, pack
from samples import make_photos
from tables import row, write_table

from imagecensus.jobs.results.corrections import Corrections
from imagecensus.jobs.training_data.sources import locate_images, read_training_data
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.preprocess import ImageError, PreprocessSpec
from imagecensus.model_export.training.decoded_images import ArrayCache, decode_images
from imagecensus.model_export.training.labelled_data import SplitFractions
from imagecensus.model_export.training.splits import DataError
from imagecensus.transforms.list_images import list_images

NO_TEST = SplitFractions(val=0, test=0)


def test_corrections_of_a_browsed_table_are_training_data(tmp_path):
    paths = make_photos(tmp_path / "photos", 4)
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9 %41.jpg")
    os.rename(paths[3], odd)
    files = [(f"{i}#x.jpg", pathlib.Path(paths[i]).read_bytes()) for i in (0, 1)]
    packed = pack("tar", files, tmp_path / "more.tar")
    uris = [row["uri"] for batch in list_images((str(tmp_path),)) for row in batch.to_pylist()]
    assert f"{packed}#0#x.jpg" in uris and any("%E9" in uri for uri in uris)
    output = write_table(tmp_path / "out", [row(uri) for uri in uris])
    corrections = Corrections(output)
    for index, uri in enumerate(uris):
        corrections.set(uri, f"00{index % 2 + 1}", "cat", 0.5)
    data = read_training_data(f"{output}/corrections.csv", NO_TEST)
    assert data.labels == ("001", "002")  # as a user wrote them, not 1 and 2
    found = contents(data)
    assert sorted(name for name, _ in found) == sorted(uris)
    with open(odd, "rb") as file:
        odd_uri = next(uri for uri in uris if "%E9" in uri)
        assert file.read() in [body for (name, _), body in found.items() if name == odd_uri]


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_in_any_order(tmp_path, kind):
    files = [(f"{i:02d}.jpg", bytes([i]) * 50) for i in range(20)]
    archive = pack(kind, files, tmp_path / f"shard.{kind}")
    names = [name if kind in NAMED else str(i) for i, (name, _) in enumerate(files)]
    order = [7, 19, 0, 12]
    rows = [(f"shard.{kind}#{names[i]}", i % 2) for i in order]
    data = read_training_data(manifest(tmp_path / "list.csv", rows), NO_TEST)
    assert data.splits["train"].names == tuple(f"{archive}#{names[i]}" for i in order)
    for _ in range(2):  # each pass reads them again
        assert [read() for read in data.splits["train"].open()] == [files[i][1] for i in order]


def test_what_is_not_there_is_left_out_with_its_reason(tmp_path):
    pack("zip", [("a.jpg", b"x")], tmp_path / "a.zip")
    locations = ["a.zip#b.jpg", "gone.zip#b.jpg", "gone.jpg", "https://a.b/c.jpg"]
    statuses = []
    for _, read in locate_images(locations, str(tmp_path)):
        with pytest.raises(ImageError) as refused:
            read()
        statuses.append(refused.value.status)
    assert statuses == ["not_found", "not_found", "not_found", "read_error"]
    data = read_training_data(
        manifest(tmp_path / "l.csv", [(name, i % 2) for i, name in enumerate(locations)]), NO_TEST
    )
    cache = ArrayCache(directory=str(tmp_path), memory_bytes=2**20, disk_bytes=0)
    with pytest.raises(DataError, match="4 of 4 train images cannot be read.*no such file"):
        decode_images(data.splits["train"], PreprocessSpec(height=8, width=8), cache, "train")


FRACTIONS = SplitFractions(val=0.2, test=0.2, seed=3)


def test_classes_without_an_image_to_judge_them_by_are_noted(tmp_path):
    write_class_folders(tmp_path / "train", {"disc": 3, "square": 3, "stripes": 1}, size=8)
    write_class_folders(tmp_path / "test", {"disc": 2}, size=8)
    notes = read_training_data(str(tmp_path), FRACTIONS).notes
    assert [note.partition(":")[0] for note in notes] == [
        "1 class of 3 without a val image ('stripes')",
        "2 classes of 3 without a test image ('square', 'stripes')",
    ]


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
    refused(split, "'stripes' has no training image, only images of test; give it some, or take")
    (tmp_path / "list.csv").write_text("path,kind\na.jpg,x\n")
    refused(tmp_path / "list.csv", "no column 'label'.*--label-column")
    (tmp_path / "bad.csv").write_text("path,label\na.jpg,\n")
    refused(tmp_path / "bad.csv", "line 2 has no path or no label")
    (tmp_path / "list.txt").write_text("a")
    refused(tmp_path / "list.txt", "neither a folder of class folders nor a list")
