"""Members read: in any order, by another process, after a change."""

import json
import os

import pytest
from listings import FILES, listed, read
from packing import KINDS, pack

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.archives.reading import Place, as_stored, read_member, unpack
from imagecensus.transforms.image_ref import ImageRef


def test_an_archive_that_changes_after_listing_is_not_read(tmp_path):
    for kind in KINDS:
        path = pack(kind, FILES[:2], tmp_path / f"x.{kind}")
        rows = listed(path)
        os.utime(path, ns=(1, 1))
        assert [read(row) for row in rows] == ["read_error"] * 2
        os.unlink(path)
        assert [read(row) for row in rows] == ["not_found"] * 2


def test_a_member_behind_the_place_starts_a_new_pass(tmp_path):
    for kind in ("tar.gz", "tfrecord.gz", "parquet"):
        rows = listed(pack(kind, FILES, tmp_path / f"x.{kind}"))
        with Place() as place:
            for i in (3, 17, 4, 4, 0, 19):
                assert read(rows[i], place=place) == FILES[i][1]


def test_too_large_members_are_not_read(tmp_path):
    for kind in KINDS:
        rows = listed(pack(kind, [("a.jpg", b"x" * 5000), ("b.jpg", b"y")], tmp_path / f"x.{kind}"))
        assert [read(row, max_bytes=1000) for row in rows] == ["too_large", b"y"]


def test_what_one_process_reads_another_one_unpacks(tmp_path):
    for kind in ("tar", "zip", "tfrecord"):
        for row in listed(pack(kind, FILES, tmp_path / f"x.{kind}")):
            stored = read({**row, "member": as_stored(row["member"])})
            assert unpack(row["member"], stored) == read(row)


def test_a_failed_member_needs_no_archive():
    member = json.dumps(["failed", "truncated", "why"])
    with pytest.raises(ImageError, match="why") as caught:
        read_member(ImageRef(uri="", container="/nowhere", member=member), 1, Place())
    assert caught.value.status == "truncated"
