"""Inventories of buckets, made up as Amazon and Google write them: what a listing would tell."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv, orc

from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.inputs import inventories
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import list_images, passthrough_columns
from imagecensus.transforms.storage import store

S3_FIELDS = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
# Key, latest, marker, size, ETag.
S3_OBJECTS = [
    ("photos/b c+d,é.jpg", True, False, 7, "aa"),
    ("photos/a.jpg", True, False, 5, "bb"),
    ("photos/a.jpg", False, False, 4, "cc"),
    ("photos/a.json", True, False, 3, "dd"),  # a sidecar
    ("photos/gone.jpg", True, True, None, ""),
    ("photos/gone.jpg", False, False, 6, "ee"),
    ("photos/", True, False, 0, "ff"),  # a folder's own object
    ("photos/.hidden/x.jpg", True, False, 1, "gg"),
    ("out/_imagecensus/dataset.json", True, False, 1, "hh"),
]
EXPECTED = [
    ("s3://b/photos/a.jpg", 5, "bb"),
    ("s3://b/photos/b c+d,é.jpg", 7, "aa"),
]
LEFT_OUT = {"versions": 2, "markers": 1, "sidecars": 1, "hidden": 1, "own": 1}


def listed(*inputs, **options):
    batches = list_images(tuple(map(str, inputs)), **options)
    return [
        (row["uri"], row["size"], row["etag_or_mtime"]) for b in batches for row in b.to_pylist()
    ]


def snake(field: str) -> str:
    return {"IsLatest": "is_latest", "IsDeleteMarker": "is_delete_marker", "ETag": "e_tag",
            "VersionId": "version_id", "LastModifiedDate": "last_modified_date"}.get(
                field, field.lower())  # fmt: skip


def s3_table(objects) -> pa.Table:
    rows = [
        {"bucket": "b", "key": key, "version_id": "v", "is_latest": latest,
         "is_delete_marker": marker, "size": size, "last_modified_date": 0, "e_tag": tag or None}
        for key, latest, marker, size, tag in objects
    ]  # fmt: skip
    names = [snake(field.strip()) for field in S3_FIELDS.split(",")]
    return pa.Table.from_pylist(rows).select(names)


def s3_csv(objects) -> bytes:
    """As Amazon writes it: no line of names, all quoted, keys encoded."""
    from urllib.parse import quote_plus

    lines = []
    for key, latest, marker, size, tag in objects:
        fields = ["b", quote_plus(key, safe="/"), "v", str(latest).lower(), str(marker).lower(),
                  "" if size is None else str(size), "2026-11-01T00:00:00.000Z", tag]  # fmt: skip
        lines.append(",".join(f'"{field}"' for field in fields))
    return gzip.compress(("\n".join(lines) + "\n").encode())


def write_s3_inventory(folder, kind: str, objects=tuple(S3_OBJECTS)):
    """A manifest with two files, as they lie in a copy of the inventory's folder."""
    day, data = folder / "b/all/2026-11-01T00-00Z", folder / "b/all/data"
    day.mkdir(parents=True)
    data.mkdir()
    suffix = {"CSV": "csv.gz", "Parquet": "parquet", "ORC": "orc"}[kind]
    files = []
    for number, some in enumerate((objects[:4], objects[4:])):
        path = data / f"{number}.{suffix}"
        if kind == "CSV":
            path.write_bytes(s3_csv(some))
        elif kind == "Parquet":
            pq.write_table(s3_table(some), path)
        else:
            orc.write_table(s3_table(some), str(path))
        files.append({"key": f"b/all/data/{path.name}", "size": 1, "MD5checksum": "0"})
    schema = S3_FIELDS if kind == "CSV" else "message s3.inventory {  required binary bucket; }"
    manifest = day / "manifest.json"
    manifest.write_text(
        json.dumps(
            {"sourceBucket": "b", "destinationBucket": "arn:aws:s3:::inventories",
             "version": "2016-11-30", "creationTimestamp": "1", "fileFormat": kind,
             "fileSchema": schema, "files": files}
        )
    )  # fmt: skip
    return manifest


@pytest.mark.parametrize("kind", ["CSV", "Parquet", "ORC"])
def test_s3_inventory(tmp_path, kind):
    """Former versions, delete markers and what a listing leaves out are left out, and counted."""
    manifest, selection = write_s3_inventory(tmp_path, kind), Selection()
    assert listed(manifest, selection=selection) == EXPECTED
    assert selection.left_out == LEFT_OUT
    assert not passthrough_columns((str(manifest),)).names
    chosen = Selection(exclude=("A.jpg",), include=("photos/*",))
    assert listed(manifest, selection=chosen) == EXPECTED[1:]
    assert chosen.left_out["excluded"] >= 1


def test_manifest_is_read_once(tmp_path, monkeypatch):
    manifest, read = str(write_s3_inventory(tmp_path, "CSV")), []

    def noting(function):
        def noted(location, *rest):
            read.append(location)
            return function(location, *rest)

        return noted

    monkeypatch.setattr(inventories, "read_range", noting(inventories.read_range))
    for name in ("read", "local_copy"):
        monkeypatch.setattr(store, name, noting(getattr(store, name)))
    assert not passthrough_columns((manifest,)).names
    assert listed(manifest) == EXPECTED
    assert read.count(manifest) == 1


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("form", ["csv", "parquet", "manifest"])
def test_storage_insights(tmp_path, form, named):
    fields = ["project", "bucket", "name", "size", "timeDeleted", "etag", "generation",
              "metageneration", "contentType"]  # fmt: skip
    objects = [
        ("p", "two", 'q"u,o\nte.jpg', 9, None, "CAE=", 17, 1, "image/jpeg"),
        ("p", "one", "x/2.jpg", 8, None, "CAE=", 16, 1, "image/jpeg"),
        ("p", "one", "x/2.jpg", 3, "2026-10-01T00:00:00Z", "CAE=", 15, 1, "image/jpeg"),
        ("p", "one", "x/1.jpg", 7, None, "CAE=", 14, 1, None),
    ]
    table = pa.Table.from_pylist([dict(zip(fields, values, strict=True)) for values in objects])
    files = []
    for number, some in enumerate((table[:2], table[2:])):
        path = tmp_path / f"id_2026-11-01T00:00_{number}.{'csv' if form == 'manifest' else form}"
        if form == "parquet":
            pq.write_table(some, path)
        else:
            csv.write_csv(some, path, csv.WriteOptions(include_header=named or form == "csv"))
        files.append(path)
    if form == "manifest":
        manifest = {
            "report_config": {"displayName": "all",
                              "objectMetadataReportOptions": {"metadataFields": fields}},
            "records_processed": 4, "shard_count": 2,
            "report_shards_file_names": [path.name for path in files],
        }  # fmt: skip
        files = [tmp_path / "id_2026-11-01T00:00_manifest.json"]
        files[0].write_text(json.dumps(manifest, indent=1))
    selection = Selection()
    assert sorted(listed(*files, selection=selection)) == [
        ("gs://one/x/1.jpg", 7, "14"),
        ("gs://one/x/2.jpg", 8, "16"),
        ('gs://two/q"u,o\nte.jpg', 9, "17"),
    ]
    assert selection.left_out["versions"] == 1


def test_an_export_of_bigquerys_object_table(tmp_path):
    text = "uri,generation,content_type,size,md5_hash,updated\n"
    text += "gs://b/2.jpg,12,image/jpeg,5,xx,2026-11-01\ngs://b/1.jpg,11,image/jpeg,4,xx,2026\n"
    (tmp_path / "table.csv").write_text(text)
    found = [("gs://b/1.jpg", 4, "11"), ("gs://b/2.jpg", 5, "12")]
    assert listed(tmp_path / "table.csv") == found


def test_a_list_that_says_more_is_a_list(tmp_path):
    """Its other columns go along, in its own order, and it names what it names."""
    text = "bucket,name,size,generation,label\nb,2.jpg,5,12,cat\nb,1.json,4,11,dog\n"
    path = tmp_path / "list.csv"
    path.write_text(text)
    assert listed(path) == [("gs://b/2.jpg", 5, "12"), ("gs://b/1.json", 4, "11")]
    assert "manifest_label" in passthrough_columns((str(path),)).names


def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    manifest = write_s3_inventory(tmp_path / "cut", "CSV")
    first = tmp_path / "cut/b/all/data/0.csv.gz"
    first.write_bytes(first.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"0\.csv\.gz"):
        listed(manifest)
    first.write_bytes(gzip.compress(b'"b","a.jpg"\n"b"\n'))
    with pytest.raises(UserError, match=r"0\.csv\.gz.*copy it again"):
        listed(manifest)
    manifest = write_s3_inventory(tmp_path / "parquet", "Parquet")
    (tmp_path / "parquet/b/all/data/1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1\.parquet.*copy it again"):
        listed(manifest)
    manifest.write_text(manifest.read_text().replace('"Parquet"', '"Avro"'))
    with pytest.raises(UserError, match="in avro, which is not read"):
        listed(manifest)
