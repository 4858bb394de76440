"""Packed archives in a bucket: read by ranges, never whole, from an emulator on loopback."""

import pytest
from bucket_emulator import emulated_bucket
from packing import KINDS, NAMED, pack

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.reading import Place
from imagecensus.transforms.list_images import list_images, passthrough_columns
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import byte_ranges

pytestmark = pytest.mark.gcs
FILES = [(f"{i:03d}.jpg", bytes([i]) * 3000) for i in range(40)]


@pytest.fixture(scope="module")
def bucket():
    with emulated_bucket("archives") as made:
        yield made


def put(bucket, kind, tmp_path) -> str:
    bucket.blob(f"x/shard.{kind}").upload_from_filename(pack(kind, FILES, tmp_path / "x"))
    return f"gs://archives/x/shard.{kind}"


def listed(*inputs):
    return [row for batch in list_images(inputs) for row in batch.to_pylist()]


def read(row, place):
    return read_image(
        row["uri"],
        row["size"],
        row["etag_or_mtime"],
        1 << 20,
        row["container"],
        row["member"],
        place,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_is_listed_and_read_by_ranges(bucket, tmp_path, kind, monkeypatch):
    uri = put(bucket, kind, tmp_path)
    monkeypatch.setattr(byte_ranges, "BUCKET_BLOCK", 8192)  # many blocks of a small object
    rows = listed(uri)
    names = [name for name, _ in FILES] if kind in NAMED else map(str, range(len(FILES)))
    assert [row["uri"] for row in rows] == [f"{uri}#{name}" for name in names]
    place = Place()
    assert [read(row, place) for row in rows] == [data for _, data in FILES]
    place.close()
    assert [row["uri"] for row in listed("gs://archives/x/*shard." + kind)] == [
        row["uri"] for row in rows
    ]


def test_an_object_deleted_after_listing_is_not_found(bucket, tmp_path):
    rows = listed(put(bucket, "tar", tmp_path))
    bucket.blob("x/shard.tar").delete()
    with pytest.raises(ImageError) as caught:
        read(rows[0], Place())
    assert caught.value.status == "not_found"


def test_columns_of_tables_in_a_bucket(bucket, tmp_path):
    put(bucket, "hf.parquet", tmp_path)
    assert passthrough_columns(("gs://archives/x/*.parquet",)).names == ["manifest_label"]
    assert listed("gs://archives/x/*.parquet")[5]["manifest_label"] == 5


def test_many_archives_and_images_keep_their_order(bucket, tmp_path):
    names = []
    for i in range(40):
        if i % 3:
            bucket.blob(f"many/{i:02d}.jpg").upload_from_string(b"x")
            names.append(f"many/{i:02d}.jpg")
        else:
            packed = pack("tar", FILES[:i], tmp_path / "x")
            bucket.blob(f"many/{i:02d}.tar").upload_from_filename(packed)
            names += [f"many/{i:02d}.tar#{name}" for name, _ in FILES[:i]]
    assert [row["uri"] for row in listed("gs://archives/many")] == [
        f"gs://archives/{name}" for name in names
    ]
