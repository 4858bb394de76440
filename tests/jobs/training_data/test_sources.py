"""Training data in every place where the batch job reads images."""

import csv
import io
import os
import pathlib

import pytest
from bucket_emulator import emulated_bucket
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


def contents(data, split="train"):
    return {
        (name, data.labels[label]): read()
        for name, label, read in zip(
            data.splits[split].names,
            data.splits[split].labels,
            data.splits[split].open(),
            strict=True,
        )
    }


def manifest(path, rows):
    text = io.StringIO()
    csv.writer(text).writerows([("uri", "label"), *rows])
    path.write_text(text.getvalue())
    return str(path)


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
    assert data.labels == ("001", "002")  # as a person wrote them, not 1 and 2
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
