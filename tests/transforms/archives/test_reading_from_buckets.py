"""Packed archives in every store: read by ranges, never whole, from emulators on loopback."""

import pytest
from listings import listed
from object_servers import SERVERS
from packing import KINDS, NAMED, pack

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.reading import Place
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.list_images import passthrough_columns
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import byte_ranges, store

pytestmark = pytest.mark.gcs
FILES = [(f"{i:03d}.jpg", bytes([i]) * 3000) for i in range(40)]


@pytest.fixture(params=list(SERVERS))
def folder(request, reach, tmp_path):
    """A folder of the test's own in each store."""
    return reach(request.param).uri(f"archives/{tmp_path.name}")


def put(folder, kind, tmp_path) -> str:
    with open(pack(kind, FILES, tmp_path / "x"), "rb") as file:
        store.write(f"{folder}/shard.{kind}", file.read())
    return f"{folder}/shard.{kind}"


def read(row, place):
    return read_image(ImageRef.of(row), 1 << 20, place)


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_is_listed_and_read_by_ranges(folder, tmp_path, kind, monkeypatch):
    uri = put(folder, kind, tmp_path)
    monkeypatch.setattr(byte_ranges, "BUCKET_BLOCK", 8192)  # many blocks of a small object
    rows = listed(uri)
    names = [name for name, _ in FILES] if kind in NAMED else map(str, range(len(FILES)))
    assert [row["uri"] for row in rows] == [f"{uri}#{name}" for name in names]
    with Place() as place:
        assert [read(row, place) for row in rows] == [data for _, data in FILES]
    assert [row["uri"] for row in listed(f"{folder}/*shard.{kind}")] == [row["uri"] for row in rows]


def test_an_object_deleted_after_listing_is_not_found(folder, tmp_path):
    rows = listed(put(folder, "tar", tmp_path))
    store.delete(f"{folder}/shard.tar")
    with pytest.raises(ImageError) as caught:
        read(rows[0], Place())
    assert caught.value.status == "not_found"


def test_columns_of_tables_in_a_bucket(folder, tmp_path):
    put(folder, "hf.parquet", tmp_path)
    assert passthrough_columns((f"{folder}/*.parquet",)).names == ["manifest_label"]
    assert listed(f"{folder}/*.parquet")[5]["manifest_label"] == 5


def test_many_archives_and_images_keep_their_order(folder, tmp_path):
    names = []
    for i in range(40):
        if i % 3:
            store.write(f"{folder}/many/{i:02d}.jpg", b"x")
            names.append(f"{i:02d}.jpg")
        else:
            with open(pack("tar", FILES[:i], tmp_path / "x"), "rb") as packed:
                store.write(f"{folder}/many/{i:02d}.tar", packed.read())
            names += [f"{i:02d}.tar#{name}" for name, _ in FILES[:i]]
    assert [row["uri"] for row in listed(f"{folder}/many")] == [
        f"{folder}/many/{name}" for name in names
    ]
